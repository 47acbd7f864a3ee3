"""The root folder: where repositories lie, how they come, move and go."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pygit2

from ftplug.files.flush import flush, flush_directory
from ftplug_registry.server.accounts import Account, is_name
from ftplug_registry.server.errors import hub_error, repo_not_found
from ftplug_registry.server.storage.references import MAIN
from ftplug_registry.server.storage.repository import RepoId, Repository, date
from ftplug_registry.server.storage.trees import NewTree

KINDS = ("models", "datasets", "spaces")
ATTRIBUTES = b"* -text\n"  # files come out of git as they went in


class RepositoryStore:
    """Repositories at ``ROOT/models/ORG/NAME/.git``; what is being written lies in ROOT/staging.

    One process serves a root. Its threads hold a repository's lock for as long as they change it;
    readers need none, since every change becomes visible in one step.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.staging = root / "staging"
        self._locks: defaultdict[RepoId, threading.RLock] = defaultdict(threading.RLock)
        self._guard = threading.Lock()
        self._recover()

    def find(self, id: RepoId) -> Repository | None:
        """Open a repository, or return None if there is none of that name."""
        if not _is_possible(id):
            return None
        path = self._path(id)
        try:
            return Repository(id, path) if (path / ".git").is_dir() else None
        except pygit2.GitError:  # being deleted, or no repository
            return None

    def reopen(self, id: RepoId) -> Repository:
        """Open a repository whose lock is held: it may be gone since the request began."""
        repository = self.find(id)
        if repository is None:
            raise repo_not_found()
        return repository

    @contextmanager
    def watched(self, id: RepoId) -> Iterator[Callable[[], bool]]:
        """Give a function that says whether what had this name before the block is gone by now.

        As long as a folder is open nothing else gets its inode: what is created again under the
        name has another.
        """
        path = self._path(id) / ".git"
        try:
            folder = os.open(path, os.O_RDONLY) if _is_possible(id) else None
        except FileNotFoundError:
            folder = None
        if folder is None:
            yield lambda: True
            return
        try:
            yield lambda: not (path.exists() and os.path.samestat(path.stat(), os.fstat(folder)))
        finally:
            os.close(folder)

    def repositories(self, kind: str) -> Iterator[Repository]:
        """Yield every repository of a kind."""
        for git_directory in sorted((self._root / kind).glob("*/*/.git")):
            namespace, name = git_directory.parts[-3:-1]
            if repository := self.find(RepoId(kind, namespace, name)):
                yield repository

    @contextmanager
    def locked(self, *ids: RepoId) -> Iterator[None]:
        """Hold the locks of repositories."""
        with ExitStack() as stack:
            for id in sorted(ids):
                with self._guard:
                    lock = self._locks[id]
                stack.enter_context(lock)
            yield

    def create(self, id: RepoId, owner: Account, *, private: bool) -> bool:
        """Create a repository with one commit on main, as the Hub does; False if it exists."""
        if self.find(id):
            return False
        stage = Path(tempfile.mkdtemp(dir=self.staging))
        _initialize(id, stage, owner, private=private)
        flush(stage)
        with self.locked(id):
            created = self._put(stage, id)
        if not created:
            shutil.rmtree(stage)
        return created

    def move(self, old: RepoId, new: RepoId) -> None:
        """Rename a repository; 409 if the new name is taken."""
        with self.locked(old, new):
            self.reopen(old)
            if not self._put(self._path(old), new):
                raise hub_error(409, f"A repository named {new} exists already")

    def delete(self, id: RepoId) -> None:
        """Delete a repository: it is gone at once, its files soon after."""
        with self.locked(id):
            self.reopen(id)
            grave = Path(tempfile.mkdtemp(dir=self.staging))
            self._path(id).rename(grave / "repository")
        shutil.rmtree(grave)

    def _path(self, id: RepoId) -> Path:
        return self._root / id.kind / id.namespace / id.name

    def _put(self, source: Path, id: RepoId) -> bool:
        target = self._path(id)
        if target.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        flush_directory(target.parent)
        return True

    def _recover(self) -> None:
        """Remove what a killed server left: unfinished files, and git's locks, which outlive it."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        for kind in KINDS:
            for git_directory in (self._root / kind).glob("*/*/.git"):
                for pattern in ("*.lock", "refs/**/*.lock", "objects/tmp_object*"):
                    for abandoned in git_directory.glob(pattern):
                        abandoned.unlink(missing_ok=True)


def _is_possible(id: RepoId) -> bool:
    return is_name(id.namespace) and is_name(id.name)


def _initialize(id: RepoId, path: Path, owner: Account, *, private: bool) -> None:
    git = pygit2.init_repository(str(path), initial_head=MAIN)
    git.config["core.logallrefupdates"] = False  # the history is in the commits
    new = Repository(id, path)
    visibility = "private" if private else "public"
    new.configure(visibility=visibility, createdat=date(int(time.time())))
    tree = NewTree(new.git)
    tree.add(".gitattributes", new.git.create_blob(ATTRIBUTES))
    new.add_commit(MAIN, [], tree.write(), "initial commit", owner)
