"""How much room artifacts take: in the Hub's cache, in a folder, or on the Hub."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.artifacts.manifest import MANIFEST
from ftplug.context import logger
from ftplug.errors import RegistryError, one_line
from ftplug_registry.governing.repository import MAIN, Governed
from ftplug_registry.hub import Hub, check_repo_id
from ftplug_registry.searching import TAG

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

_AT_ONCE = 4  # repositories that are asked for at the same time


@dataclass(frozen=True)
class Usage:
    """One artifact or repository: each content counts once, however many versions have it.

    ``latest`` are the bytes of main alone (of the Hub), ``used`` when it was last read (cache).
    """

    name: str
    bytes: int
    versions: int
    latest: int | None = None
    used: datetime | None = None


def usage(place: str | None = None, *, hub: Hub | None = None) -> list[Usage]:
    """Return what artifacts take, largest first: in bytes of content.

    ``place`` is None for the Hub's cache on this machine, a folder with artifacts somewhere below
    it (or another cache), ``org/name`` for all that a repository's branches and tags hold, or a
    user or organisation for each artifact published there. What of a cache cannot be read is
    warned of. Raises :class:`RegistryError`.
    """
    hub = hub or Hub()
    if place is None:
        found = _in_cache(hub.cache_dir)
    elif os.path.isdir(place):
        folder = Path(place)
        found = _in_cache(folder) if any(folder.glob("models--*")) else _in_folder(folder)
    elif not place.strip():  # no owner: the Hub would list everybody's
        raise RegistryError("du: the place is empty: name a folder, org/name or an owner")
    elif place.startswith((".", "/", "~")):
        raise RegistryError(f"du: {place}: no such folder")
    elif "/" in place:
        check_repo_id(place)
        found = [one for one in [_on_hub(hub, place)] if one]
    else:
        found = _of_owner(hub, place)
    return sorted(found, key=lambda one: (-one.bytes, one.name))


def _in_cache(cache_dir: Path | None) -> list[Usage]:
    """Return the repositories of a cache that hold an artifact in any version."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        scanned = scan_cache_dir(cache_dir or constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    except ValueError as error:  # a file
        raise RegistryError(f"du: {one_line(error)}: check HF_HUB_CACHE") from error
    empty = [str(path) for path in Path(cache_dir or constants.HF_HUB_CACHE).glob("models--*")
             if not _holds_files(path)]  # fmt: skip
    for warning in scanned.warnings:
        if any(f"{path}{end}" in f"{warning} " for path in empty for end in ("/", " ", ")")):
            continue  # the Hub was asked for what the repository has not: nothing is left out
        logger.warning("du leaves out what it cannot read: %s", one_line(warning))
    return [
        Usage(
            name=repository.repo_id,
            bytes=repository.size_on_disk + _partial(repository.repo_path),
            versions=len(repository.revisions),
            used=datetime.fromtimestamp(repository.last_accessed, UTC),
        )
        for repository in scanned.repos
        if _holds_artifact(repository)
    ]


def _holds_files(repository: Path) -> bool:
    """Whether anything of a repository was downloaded, or linked to."""
    return any(p.is_symlink() or p.is_file() for p in repository.glob("snapshots/**/*")) or any(
        repository.glob("blobs/*")
    )


def _partial(repository: Path) -> int:
    """Return the bytes of downloads that were interrupted: the next one goes on with them."""
    return sum(path.lstat().st_size for path in repository.glob("blobs/*.incomplete"))


def _holds_artifact(repository: CachedRepoInfo) -> bool:
    names = (file.file_name for revision in repository.revisions for file in revision.files)
    return repository.repo_type == "model" and MANIFEST in names


def _in_folder(folder: Path) -> list[Usage]:
    """Return the artifacts below a folder; a file with several names counts for the first alone."""
    seen = set[tuple[int, int]]()
    return [Usage(str(artifact), sum(_sizes(artifact, seen)), 1) for artifact in _artifacts(folder)]


def _artifacts(folder: Path) -> Iterator[Path]:
    for where, folders, names in os.walk(folder, onerror=_unreadable):
        folders.sort()
        if MANIFEST in names:
            yield Path(where)


def _sizes(artifact: Path, seen: set[tuple[int, int]]) -> Iterator[int]:
    """Yield the bytes of an artifact's files, those of artifacts within it left out.

    A link counts as the file that it leads to, as in a Hub's cache.
    """
    for where, folders, names in os.walk(artifact, onerror=_unreadable):
        folders[:] = [f for f in folders if not os.path.isfile(os.path.join(where, f, MANIFEST))]
        for name in names:
            path = os.path.join(where, name)
            try:
                stat = os.stat(path) if os.path.isfile(path) else os.lstat(path)
            except OSError as error:
                if os.path.lexists(path):
                    _unreadable(error)
                continue  # removed just now
            if (key := (stat.st_dev, stat.st_ino)) not in seen:
                seen.add(key)
                yield stat.st_size


def _unreadable(error: OSError) -> None:
    raise RegistryError(f"du: {error.filename}: cannot be read: {error.strerror}") from error


def _of_owner(hub: Hub, owner: str) -> list[Usage]:
    with hub.stated_errors("du", owner):
        names = [model.id for model in hub.api.list_models(author=owner, filter=TAG)]
    with ThreadPoolExecutor(_AT_ONCE, "ftplug-du") as pool:
        # Each watches its own requests: what may come at most is said of one repository.
        each = pool.map(lambda name: _on_hub(dataclasses.replace(hub), name), names)
        return [one for one in each if one]


def _on_hub(hub: Hub, repo_id: str) -> Usage | None:
    """Return what a repository's branches and tags hold together; None for no artifact in any."""
    from huggingface_hub.hf_api import RepoFile

    repository = Governed(hub, repo_id)
    with hub.stated_errors("du", repo_id):
        heads = {**repository.tags(), **repository.branches()}
        contents: dict[str, int] = {}
        names: set[str] = set()
        latest = 0
        for commit in dict.fromkeys(heads.values()):
            tree = hub.api.list_repo_tree(repo_id, revision=commit, recursive=True)
            files = {file.path: file for file in tree if isinstance(file, RepoFile)}
            names |= files.keys()
            contents |= {file.blob_id: file.size for file in files.values()}
            if commit == heads.get(MAIN):
                latest = sum(file.size for file in files.values())
    if MANIFEST not in names:
        return None
    return Usage(repo_id, sum(contents.values()), len(set(heads.values())), latest=latest)
