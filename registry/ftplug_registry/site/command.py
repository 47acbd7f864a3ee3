"""``ftplug site`` on the command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ftplug_registry.options import AsJson
from ftplug_registry.printing import shown

if TYPE_CHECKING:
    from ftplug_registry.site.collecting import Zoo
    from ftplug_registry.site.writing import Written

_MOST_REMARKS = 20  # that are printed


def site(
    places: Annotated[
        list[str],
        typer.Option(
            "--from",
            metavar="ORG|ORG/NAME|DIR",
            help="A namespace or repository of the Hub, or a folder of artifacts (one that is "
            "there comes first: ./ORG or ORG). Repeatable, or with commas between.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The folder to write.")],
    title: Annotated[str, typer.Option("--title", help="The heading of the list.")] = "Model zoo",
    private: Annotated[
        bool, typer.Option("--private", help="Show private and gated ones too: mind who reads it.")
    ] = False,
    trusted: Annotated[
        Path | None,
        typer.Option("--trusted", metavar="KEYS", help="Whose signatures count: a file or folder."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a zoo as a static site: a list to search, a page an artifact, comparisons.

    Example: ftplug site --from my-org --to public

    It reads manifests, cards and listings, never weights. Nothing in the pages asks another
    host for anything, and they open from a disk, a web server or any path of one. An artifact that
    is malformed stays in the list, with what is wrong with it. The same zoo gives the same bytes;
    DIR is written complete or not at all, and replaced only where it holds such a site.
    ftplug serve shows the same pages of what it serves.
    """
    from ftplug.comparing.report.texts import clean
    from ftplug_registry.site.collecting import collect
    from ftplug_registry.site.writing import write_site

    named = [part for place in places for part in _parts(place)]
    with _progress() as tell:
        zoo = collect(named, private=private, trusted=trusted, tell=tell)
    written = write_site(zoo, to, clean(title, 120) or "Model zoo")
    _print(zoo, written, as_json=as_json)


def _parts(place: str) -> list[str]:
    """Return the places that one option names; a folder may have a comma in its name."""
    if os.path.isdir(place):
        return [place]
    return [part.strip() for part in place.split(",") if part.strip()] or [place]


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how many artifacts have been read."""
    from rich.console import Console
    from rich.progress import Progress

    progress = Progress(
        console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    with progress:
        task = progress.add_task("reading artifacts", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _print(zoo: Zoo, written: Written, *, as_json: bool) -> None:
    wrong = {one.name: list(one.remarks) for one in zoo.artifacts if one.remarks}
    if as_json:
        said = {
            "to": str(written.folder),
            "artifacts": len(zoo.artifacts),
            "files": written.files,
            "bytes": written.bytes,
            "remarks": wrong,
            "private": list(zoo.private),
        }
        typer.echo(json.dumps(said, indent=2))
        return
    for name, remarks in list(wrong.items())[:_MOST_REMARKS]:
        typer.echo(f"{shown(name)}: {shown(remarks[0])}", err=True)
    if len(wrong) > _MOST_REMARKS:
        typer.echo(f"and {len(wrong) - _MOST_REMARKS} more with remarks", err=True)
    if zoo.private:
        ending = "y" if len(zoo.private) == 1 else "ies"
        many = f"{len(zoo.private)} private or gated repositor{ending}"
        typer.echo(f"{many} left out: --private shows them", err=True)
    count = len(zoo.artifacts)
    typer.echo(
        f"{count} artifact{'' if count == 1 else 's'}, {written.files} files, "
        f"{written.bytes:,} bytes: open {written.folder / 'index.html'}"
    )
