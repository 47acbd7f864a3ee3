"""``ftplug verify``: an artifact, from the ground up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ftplug.cli import printable
from ftplug_registry.options import AllowUnsigned, AsJson, RequireSignature, Revision, Target
from ftplug_registry.options import Trusted as TrustedKeys
from ftplug_registry.printing import print_missing, print_signature


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

    With --files-only the plugin of its method need not be installed. With --served or --rerun the
    exit code is 0 only where the server has the trained model, or the metrics are met.

    Example: ftplug verify org/my-adapter --revision v1 --trusted keys/alice.pub

    On a server: ftplug verify org/my-adapter --served http://127.0.0.1:8000 --model my-adapter
    """
    from ftplug_registry.verifying.verification import verify

    if (url is None) != (model is None):
        raise typer.BadParameter("--served URL and --model NAME go together")
    done = verify(
        artifact,
        revision,
        base=base,
        files_only=files_only,
        trusted=trusted,
        require_signature=require_signature,
        allow_unsigned=allow_unsigned,
    )
    further = _further(artifact, done.sha, base, (url, model), (rerun, data))
    if as_json:
        typer.echo(json.dumps(done.as_json() | further, indent=2))
        return
    typer.echo(f"{len(done.files)} files, {done.bytes:,} bytes: sha256 as in the manifest")
    print_signature(done.signature)
    name = printable(base or done.base or "without a Hub id")
    if done.base_checked:
        typer.echo(f"base {name}: the weights it was trained on")
    else:
        why = "--files-only" if files_only else "made on a base without a fingerprint"
        typer.echo(f"base {name}: not checked ({why})")
    print_missing(done.missing)
    for found in further.values():
        typer.echo(printable(found["line"]))


def _further(
    artifact: str,
    sha: str | None,
    base: str | None,
    server: tuple[str | None, str | None],
    evaluation: tuple[bool, Path | None],
) -> dict[str, Any]:
    """Check what costs more than reading files; raises where it is not as it should be."""
    from ftplug.artifacts.registries import artifact_folder

    (url, model), (rerun, data) = server, evaluation
    found: dict[str, Any] = {}
    if url is not None and model is not None:
        from ftplug_registry.verifying.served import require_trained, served

        asked = served(artifact_folder(artifact, sha), url, model)
        require_trained(asked, artifact)
        found["served"] = asked.as_json() | {"line": asked.line}
    if rerun:
        from ftplug_registry.verifying.rerun import require_met
        from ftplug_registry.verifying.rerun import rerun as measured_again

        measured = measured_again(artifact_folder(artifact, sha), base, file=data)
        require_met(measured, artifact)
        found["rerun"] = measured.as_json() | {"line": measured.line}
    return found
