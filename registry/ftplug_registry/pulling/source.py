"""One commit of a repository: what it lists, what the cache holds of it, what to download."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.errors import RegistryError
from ftplug_registry.client import content_of, resolve_revision, transport
from ftplug_registry.hub import Hub, check_revision

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils.tqdm import tqdm


@dataclass(frozen=True)
class Source:
    """A commit, whose content never changes. ``force`` downloads anew what the cache holds."""

    hub: Hub
    repo_id: str
    sha: str
    force: bool = False

    @classmethod
    def resolve(
        cls, hub: Hub, repo_id: str, revision: str | None, *, force: bool = False
    ) -> Source:
        """Return the commit that a branch, tag or sha means; without a network, by the cache."""
        check_revision(repo_id, revision)
        sha = resolve_revision(hub.api, repo_id, revision, hub.cache_dir)
        if not re.fullmatch(r"[0-9a-f]{40}", sha):  # of the cache: an answer is checked before
            raise RegistryError(f"{repo_id}: the cache names no commit: pull once while online")
        return cls(hub, repo_id, sha, force)

    @cached_property
    def listing(self) -> Mapping[str, RepoFile] | None:
        """The files of the commit with their sizes; None where the Hub cannot be reached."""
        from huggingface_hub import errors
        from huggingface_hub.hf_api import RepoFile

        http = transport()
        try:
            tree = self.hub.api.list_repo_tree(self.repo_id, revision=self.sha, recursive=True)
            return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        except (errors.OfflineModeIsEnabled, http.ConnectError, http.TimeoutException):
            return None

    def cached(self, name: str) -> Path | None:
        """Return where the cache has a file, if it does."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(
            self.repo_id, name, cache_dir=self.hub.cache_dir, revision=self.sha
        )
        return Path(path) if isinstance(path, str) else None

    def has(self, name: str) -> bool:
        """Whether the commit has a file; without a network, whether the cache has it."""
        if self.listing is not None:
            return name in self.listing
        return self.cached(name) is not None

    def forget(self) -> None:
        """Take the names of this commit out of the cache where nothing of it was downloaded.

        A branch that means a commit which is not there makes the whole repository unreadable to
        whoever scans the cache.
        """
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        name = repo_folder_name(repo_id=self.repo_id, repo_type="model")
        repository = Path(self.hub.cache_dir or constants.HF_HUB_CACHE, name)
        if (repository / "snapshots" / self.sha).exists():
            return
        with contextlib.suppress(OSError):  # another process may have done it
            for ref in (repository / "refs").rglob("*"):
                if ref.is_file() and ref.read_text().strip() == self.sha:
                    ref.unlink()

    def size(self, name: str) -> int:
        """Return a file's bytes where the Hub told them, else 0."""
        entry = self.listing.get(name) if self.listing else None
        return entry.size if entry else 0

    def read(self, name: str) -> bytes:
        """Return the content of a small file: the cache's, or by one request that leaves it alone.

        Raises :class:`RegistryError` where it is not what the commit lists.
        """
        entry = self.listing.get(name) if self.listing else None
        if entry is None:
            raise RegistryError(f"{self.repo_id}: {name} is not listed: the Hub must be asked")
        if cached := self.cached(name):
            content = cached.read_bytes()
        else:
            content = content_of(self.hub.api, self.repo_id, name, self.sha)
        if not _is_listed(content, entry):
            raise RegistryError(f"{self.repo_id}: {name} is not what the Hub lists: try again")
        return content

    def fetch(self, names: list[str], *, quiet: bool = False) -> Path:
        """Download these files into the cache, and return the commit's folder there."""
        for name in names:
            if self.listing is not None and name not in self.listing:
                raise RegistryError(f"{self.repo_id}: {name} is missing from the repository")
            # Its entry in the cache may be somebody's link to elsewhere: never write through it.
            if self.force and (cached := self.cached(name)):
                cached.unlink(missing_ok=True)
        folder = self.hub.api.snapshot_download(
            self.repo_id,
            revision=self.sha,
            cache_dir=self.hub.cache_dir,
            allow_patterns=[glob.escape(name) for name in names],
            force_download=self.force,
            local_files_only=self.listing is None,
            tqdm_class=_no_bar() if quiet else None,
        )
        for name in names:
            check_place(Path(folder), name)
        return Path(folder)


def _no_bar() -> type[tqdm]:
    """Return a progress bar that shows nothing; a class, whose lock older clients ask for."""
    from huggingface_hub.utils.tqdm import tqdm

    class NoBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})  # type: ignore[no-untyped-call]

    return NoBar


def _is_listed(content: bytes, entry: RepoFile) -> bool:
    """Whether a file has the digest of its listing: git's of a blob, or that of LFS."""
    if entry.lfs is not None:
        return hashlib.sha256(content).hexdigest() == entry.lfs.sha256
    blob = b"blob %d\0" % len(content) + content
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == entry.blob_id


def check_place(folder: Path, name: str) -> None:
    """A file of the cache is a link to its content there, and to nothing else."""
    real = Path(os.path.realpath(folder / name))
    if not real.is_relative_to(os.path.realpath(folder.parent.parent)):
        raise RegistryError(f"{folder}: {name} is a link out of the cache: pull with --force")
