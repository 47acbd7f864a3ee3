"""``ftplug verify``: an artifact, from the ground up."""

from __future__ import annotations

import json
from typing import Annotated

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
    as_json: AsJson = False,
) -> None:
    """Recompute every file's sha256 and the fingerprint of the base's weights; check who signed.

    With --files-only the plugin of its method need not be installed.

    Example: ftplug verify org/my-adapter --revision v1 --trusted keys/alice.pub
    """
    from ftplug_registry.verifying.verification import verify

    done = verify(
        artifact,
        revision,
        base=base,
        files_only=files_only,
        trusted=trusted,
        require_signature=require_signature,
        allow_unsigned=allow_unsigned,
    )
    if as_json:
        typer.echo(json.dumps(done.as_json(), indent=2))
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
