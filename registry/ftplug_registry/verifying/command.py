"""``ftplug verify``: an artifact, from the ground up."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ftplug.cli import printable
from ftplug_registry.options import AsJson, Revision, Target
from ftplug_registry.printing import print_missing


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
    as_json: AsJson = False,
) -> None:
    """Recompute every file's sha256 and the fingerprint of the base's weights.

    With --files-only the plugin of its method need not be installed.

    Example: ftplug verify org/my-adapter --revision v1
    """
    from ftplug_registry.verifying.verification import verify

    done = verify(artifact, revision, base=base, files_only=files_only)
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2))
        return
    typer.echo(f"{len(done.files)} files, {done.bytes:,} bytes: sha256 as in the manifest")
    name = printable(base or done.base or "without a Hub id")
    if done.base_checked:
        typer.echo(f"base {name}: the weights it was trained on")
    else:
        why = "--files-only" if files_only else "made on a base without a fingerprint"
        typer.echo(f"base {name}: not checked ({why})")
    print_missing(done.missing)
