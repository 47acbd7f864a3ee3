"""Options that several of the registry's commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftplug.options import RequireSignature, Trusted

Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit sha.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AllowUnsigned = Annotated[
    bool,
    typer.Option("--allow-unsigned", help="Accept what is older than the first signed revision."),
]
Target = Annotated[str, typer.Argument(metavar="DIR|REPO_ID", help="A folder, or org/name.")]
Sign = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Sign what is published with this private key."),
]

__all__ = [
    "AllowUnsigned",
    "AsJson",
    "RequireSignature",
    "Revision",
    "Sign",
    "Target",
    "Trusted",
]
