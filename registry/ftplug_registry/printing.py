"""What the registry's commands print: files, tables, and strangers' words made harmless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from ftplug.cli import printable

if TYPE_CHECKING:
    from ftplug_registry.pushing.publishing import Published
    from ftplug_registry.signing.checking import Signed

_WIDEST = 400  # characters of a cell


def print_files(sizes: Mapping[str, int], where: str) -> None:
    """Print names and sizes of what goes to a repository."""
    for name, size in sizes.items():
        typer.echo(f"  {size:>13,}  {name}")
    typer.echo(f"{len(sizes)} files, {sum(sizes.values()):,} bytes {where}")


def print_published(done: Published, tag: str | None) -> None:
    """Print what a push did."""
    for name in done.removed:
        typer.echo(f"  removed {name}: it belonged to the artifact published before")
    state = "published" if done.changed else "unchanged: all of it was there already,"
    typer.echo(f"{state} {done.url} at {done.sha}" + (f", tagged {tag}" if tag else ""))


def print_missing(missing: Iterable[str]) -> None:
    """Print which methods are not installed."""
    for said in missing:
        typer.echo(f"to load it, this is needed: {said}")


def print_signature(signed: Signed | None) -> None:
    """Print who signed an artifact, if anybody has, after that was verified."""
    if signed:
        typer.echo(f"signature: {shown(signed.said())}")
    if signed and signed.provenance:
        typer.echo("provenance: the run's facts are signed as well, by the same key")


def shown(text: str) -> str:
    """Return what a stranger wrote without what would drive the terminal, and not too much."""
    return printable(text if len(text) <= _WIDEST else f"{text[:_WIDEST]}…")


def print_table(heads: tuple[str, ...] | None, lines: Iterable[tuple[Any, ...]]) -> None:
    """Print a table to a terminal, and to anything else a line a row, with tabs."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    cells = [[shown(str(cell)) for cell in line] for line in lines]
    if not console.is_terminal:  # whole lines, for grep and cut
        for row in [list(heads), *cells] if heads else cells:
            typer.echo("\t".join(row))
        return
    table = Table(*(heads or ()), show_header=heads is not None, box=box.SIMPLE_HEAD)
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)
