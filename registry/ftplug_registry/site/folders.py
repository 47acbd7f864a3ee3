"""Artifacts in local folders: a folder of them, or one of folders of them (``ORG/NAME``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ftplug.artifacts.manifest import MANIFEST, parse_manifest
from ftplug.errors import FtplugError, RegistryError, one_line
from ftplug.files.staged import require_whole
from ftplug_registry.site.found import READ, Found, Listed, Signature
from ftplug_registry.site.signed import Checking

_PLAIN = "adapter_config.json"
_DEPTH = 2  # folders between the one that is named and an artifact's, and that one
_MOST = 10_000  # files of one artifact that are looked at


def folders_in(root: Path) -> list[tuple[str, Path]]:
    """Return name and path of the artifacts in a folder, which may be one itself.

    Raises :class:`RegistryError` where there is none.
    """
    try:
        found = list(_walk(root, root, 0))
    except OSError as error:
        raise RegistryError(f"{root} cannot be read: {error.strerror or error}") from error
    if not found:
        raise RegistryError(
            f"{root}: no artifact in it, nor in the folders in it (none has {MANIFEST})"
        )
    return found


def found_at(name: str, folder: Path, root: Path, checking: Checking) -> Found:
    """Return what lies in an artifact's folder; whatever cannot be read is its remark."""
    try:
        require_whole(folder)
        listed, links = _listed(folder, root)
        files = {
            file: (folder / file).read_bytes()
            for file, most in READ.items()
            if file in listed and listed[file].size <= most
        }
        stamp = (folder / (MANIFEST if MANIFEST in listed else "")).stat().st_mtime
        date = datetime.fromtimestamp(int(stamp), UTC).isoformat()
    except (OSError, OverflowError, ValueError, FtplugError) as error:
        reason = one_line(getattr(error, "strerror", None) or error).replace(str(folder), name)
        return Found(name, remark=f"cannot be read: {reason}")
    remark = None
    if links:
        remark = f"{links[0]} is a link out of the folder and is not read: copy the file there"
    signature = None if remark else _signature(folder, files, checking)
    return Found(name, files, listed, date=date, signature=signature, remark=remark)


def _walk(root: Path, folder: Path, depth: int) -> Iterator[tuple[str, Path]]:
    if any(os.path.lexists(folder / name) for name in (MANIFEST, _PLAIN)):
        relative = folder.relative_to(root).as_posix()
        yield (relative if depth else folder.resolve().name or "artifact"), folder
        return
    if depth == _DEPTH:
        return
    try:
        within = sorted(folder.iterdir(), key=lambda one: one.name)
    except OSError:
        if not depth:
            raise
        yield folder.relative_to(root).as_posix(), folder  # for what reads it to say why
        return
    for path in within:
        if not path.name.startswith((".", "_", "checkpoint-")) and path.is_dir():
            yield from _walk(root, path, depth + 1)


def _listed(folder: Path, root: Path) -> tuple[dict[str, Listed], list[str]]:
    """Return the files of a folder by name, and those that are links to elsewhere."""
    places = [os.path.realpath(root)]
    if Path(places[0]).parent.name == "snapshots" or folder.resolve().parent.name == "snapshots":
        places.append(os.path.realpath(folder.resolve().parent.parent / "blobs"))  # a Hub's cache
    listed: dict[str, Listed] = {}
    links = []
    for name in _names(folder):
        path = folder / name
        real = os.path.realpath(path)
        if not any(Path(real).is_relative_to(place) for place in places):
            links.append(name)
        elif os.path.isfile(real):
            listed[name] = Listed(path.stat().st_size)
    return listed, links


def _names(folder: Path) -> Iterator[str]:
    count = 0
    for around, within, files in os.walk(folder, onerror=_raised):
        within[:] = sorted(n for n in within if not n.startswith((".", "_", "checkpoint-")))
        for name in sorted(files):
            count += 1
            if count > _MOST:
                return
            yield (Path(around) / name).relative_to(folder).as_posix()


def _raised(error: OSError) -> None:
    raise error


def _signature(folder: Path, files: dict[str, bytes], checking: Checking) -> Signature | None:
    try:
        manifest = parse_manifest(files.get(MANIFEST, b""), Path(MANIFEST), plugins=False)
    except FtplugError:
        return None
    return checking.checked(folder, manifest)
