"""Writing a site into a folder: complete or not at all, and over nothing but an older site."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from ftplug.errors import RegistryError
from ftplug.files.folder_lock import awaited
from ftplug.files.staged import OURS, finish_interrupted, staged
from ftplug.files.write_errors import stated_write_errors
from ftplug_registry.site.addresses import FOLDER, Addresses
from ftplug_registry.site.collecting import Zoo
from ftplug_registry.site.pages import Site, script, style

MARKER = "ftplug_site.json"  # which files of a folder are a site's
_GENERATOR = "ftplug site"
# What a site may hold, and no other name: a marker that somebody else made removes nothing.
_NAME = re.compile(
    rf"(index|comparisons|bases)\.html|site\.(css|js)|{re.escape(MARKER)}|{FOLDER}/[\w.-]+\.html",
    re.ASCII,
)
_LARGEST = 64 * 2**20  # bytes of a marker


@dataclass(frozen=True)
class Written:
    """A site on disk: its folder, the number of its files, and their bytes."""

    folder: Path
    files: int
    bytes: int


def write_site(zoo: Zoo, to: Path, title: str) -> Written:
    """Write the pages of a zoo; the same zoo gives the same bytes.

    An older site in the folder is replaced; other files there stay. Raises :class:`RegistryError`
    for a folder that holds something else, :class:`ArtifactError` for one that cannot be written.
    """
    content = {name: text.encode("utf-8") for name, text in _pages(zoo, title)}
    content[MARKER] = _marker([*content, MARKER])
    with _held(to), stated_write_errors(to):
        if os.path.isdir(to):
            finish_interrupted(to)
        older = _older(to)
        _refuse_others(to, content, older)
        with staged(to, MARKER, obsolete=older - content.keys()) as stage:
            for name, data in content.items():
                (stage / name).parent.mkdir(exist_ok=True)
                (stage / name).write_bytes(data)
    return Written(to, len(content), sum(map(len, content.values())))


def _held(to: Path) -> AbstractContextManager[None]:
    """Wait until nobody else writes a site there; of two who make the folder one is refused."""
    return awaited(to) if os.path.isdir(to) else nullcontext()


def _pages(zoo: Zoo, title: str) -> Iterator[tuple[str, str]]:
    addresses = Addresses.of_files(one.name for one in zoo.artifacts)
    site = Site(zoo.artifacts, addresses, title)
    yield addresses.home, site.home()
    yield addresses.comparisons, site.comparisons()
    yield addresses.bases, site.bases()
    yield addresses.style, style()
    yield addresses.script, script()
    for artifact in zoo.artifacts:
        yield addresses.pages[artifact.name], site.page(artifact)


def _marker(names: list[str]) -> bytes:
    said = {"generator": _GENERATOR, "files": sorted(names)}
    return (json.dumps(said, indent=1) + "\n").encode("utf-8")


def _older(to: Path) -> set[str]:
    """Return the files of the site that a folder holds; none where there is no folder.

    Raises :class:`RegistryError` where the folder holds something that is no site.
    """
    if not os.path.exists(to):
        return set()
    if not os.path.isdir(to):
        raise RegistryError(f"{to} is a file: name a folder with --to")
    if (to / MARKER).is_file():
        return _listed(to / MARKER)
    others = sorted(path.name for path in to.iterdir() if not path.name.startswith(OURS))
    if others:
        raise RegistryError(
            f"{to}: {others[0]} is there, and no site of ftplug ({MARKER}): name an empty folder, "
            "or one that is not there yet"
        )
    return set()


def _listed(marker: Path) -> set[str]:
    try:
        said = json.loads(marker.read_bytes() if marker.stat().st_size <= _LARGEST else b"")
        names: list[str] = said["files"]
        ours = isinstance(names, list) and all(_NAME.fullmatch(name) for name in names)
        if said["generator"] == _GENERATOR and ours:
            return {*names, MARKER}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise RegistryError(f"{marker} was not written by ftplug site: name another folder with --to")


def _refuse_others(to: Path, content: dict[str, bytes], older: set[str]) -> None:
    """Refuse to write over a file that somebody put beside an older site, or through a link."""
    if (to / FOLDER).is_symlink():
        raise RegistryError(f"{to}: {FOLDER} is a link to another folder: remove the link")
    for name in sorted(content.keys() - older):
        if os.path.lexists(to / name):
            raise RegistryError(f"{to}: {name} is there, and not of the site: move it away")
