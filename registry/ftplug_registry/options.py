"""Options that several of the registry's commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit sha.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Target = Annotated[str, typer.Argument(metavar="DIR|REPO_ID", help="A folder, or org/name.")]
