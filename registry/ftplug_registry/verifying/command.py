"""``ftplug verify``: an artifact, from the ground up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from ftplug.cli import printable
from ftplug_registry.options import AsJson, Revision, Target
from ftplug_registry.printing import print_missing

if TYPE_CHECKING:
    from ftplug.effect.replaying import Replayed


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
    effect: Annotated[
        bool,
        typer.Option("--effect", help="Load it, and ask again all that its probe asked."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute every file's sha256 and the fingerprint of the base's weights.

    With --files-only the plugin of its method need not be installed. With --effect it ends with 0
    only where the model answers here as it was trained to.

    Example: ftplug verify org/my-adapter --revision v1
    """
    if effect and files_only:
        raise typer.BadParameter("--effect loads the artifact: leave out --files-only")
    from ftplug_registry.verifying.effect import require_trained
    from ftplug_registry.verifying.verification import verify

    done = verify(artifact, revision, base=base, files_only=files_only)
    found = _effect(artifact, done.sha, base) if effect else None
    if as_json:
        more = {"effect": found.as_json()} if found else {}
        typer.echo(json.dumps(done.as_json() | more, indent=2))
        if found:
            require_trained(artifact, found)
        return
    typer.echo(f"{len(done.files)} files, {done.bytes:,} bytes: sha256 as in the manifest")
    name = printable(base or done.base or "without a Hub id")
    if done.base_checked:
        typer.echo(f"base {name}: the weights it was trained on")
    else:
        why = "--files-only" if files_only else "made on a base without a fingerprint"
        typer.echo(f"base {name}: not checked ({why})")
    print_missing(done.missing)
    if found:
        require_trained(artifact, found)
        typer.echo(printable(found.line()))


def _effect(artifact: str, sha: str | None, base: str | None) -> Replayed:
    """Load the artifact and ask it all that its probe asks."""
    from ftplug.artifacts.registries import artifact_folder
    from ftplug_registry.verifying.effect import replayed

    return replayed(artifact_folder(artifact, sha), base)
