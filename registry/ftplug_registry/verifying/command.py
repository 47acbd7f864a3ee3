"""``ftplug verify``: an artifact, from the ground up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftplug.cli import printable
from ftplug_registry.options import AllowUnsigned, AsJson, RequireSignature, Revision, Target
from ftplug_registry.options import Trusted as TrustedKeys
from ftplug_registry.printing import print_missing, print_signature

if TYPE_CHECKING:
    from ftplug_registry.verifying.verification import Verified


def verify(
    artifact: Target,
    revision: Revision = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Id or folder of the base, if not as recorded.")
    ] = None,
    files_only: Annotated[
        bool,
        typer.Option("--files-only", help="Leave the base's weights unchecked; needs no plugin."),
    ] = False,
    trusted: TrustedKeys = None,
    require_signature: RequireSignature = False,
    allow_unsigned: AllowUnsigned = False,
    effect: Annotated[
        bool,
        typer.Option("--effect", help="Load it, and ask again all that its probe asked."),
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            "--served",
            metavar="URL",
            help="Ask the OpenAI-compatible server there whether it answers as the trained model. "
            "A key is read from $FTPLUG_SERVER_KEY.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="With --served: what the server calls it.")
    ] = None,
    rerun: Annotated[
        bool,
        typer.Option("--rerun", help="Measure its metrics again here, on the data it names."),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="With --rerun: the local file that it was evaluated on."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute every file's sha256 and the fingerprint of the base's weights; check who signed.

    With --files-only the plugin of its method need not be installed. With --effect, --served or
    --rerun the exit code is 0 only where model or server answer as trained, or metrics are met.

    Example: ftplug verify org/my-adapter --revision v1 --trusted keys/alice.pub

    What it does: ftplug verify org/my-adapter --effect

    On a server: ftplug verify org/my-adapter --served http://127.0.0.1:8000 --model my-adapter
    """
    from ftplug.artifacts.registries import artifact_folder
    from ftplug_registry.verifying.further import further
    from ftplug_registry.verifying.verification import verify

    if effect and files_only:
        raise typer.BadParameter("--effect loads the artifact: leave out --files-only")
    if (url is None) != (model is None):
        raise typer.BadParameter("--served URL and --model NAME go together")
    if data is not None and not rerun:
        raise typer.BadParameter("--data names the file of --rerun, which measures on it: add it")
    done = verify(
        artifact,
        revision,
        base=base,
        files_only=files_only,
        trusted=trusted,
        require_signature=require_signature,
        allow_unsigned=allow_unsigned,
    )
    checks = []
    if effect or url is not None or rerun:
        folder, server, evaluation = (
            artifact_folder(artifact, done.sha),
            (url, model),
            (rerun, data),
        )
        checks = list(
            further(artifact, folder, base, effect=effect, server=server, evaluation=evaluation)
        )
    if as_json:
        more = {one.name: one.figures | {"line": one.line} for one in checks}
        typer.echo(json.dumps(done.as_json() | more, indent=2))
    else:
        _print(done, base, files_only=files_only)
    for one in checks:
        one.require()
        if not as_json:
            typer.echo(printable(one.line))


def _print(done: Verified, base: str | None, *, files_only: bool) -> None:
    typer.echo(f"{len(done.files)} files, {done.bytes:,} bytes: sha256 as in the manifest")
    print_signature(done.signature)
    name = printable(base or done.base or "without a Hub id")
    if done.base_checked:
        typer.echo(f"base {name}: the weights it was trained on")
    else:
        why = "--files-only" if files_only else "made on a base without a fingerprint"
        typer.echo(f"base {name}: not checked ({why})")
    print_missing(done.missing)
