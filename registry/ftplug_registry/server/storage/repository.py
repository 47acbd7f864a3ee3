"""One git repository: revisions, files, history, refs, and commits: whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import SortMode

from ftplug_registry.server.accounts import Account
from ftplug_registry.server.errors import entry_not_found, hub_error
from ftplug_registry.server.storage import trees
from ftplug_registry.server.storage.lfs import LARGEST_POINTER, LfsObjects, Pointer
from ftplug_registry.server.storage.references import MAIN, References, full_name, signature


@dataclass(frozen=True, order=True)
class RepoId:
    """Which repository: ``kind`` is models, datasets or spaces."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def url_path(self) -> str:
        """The path of its page: ``datasets/ORG/NAME``, for a model ``ORG/NAME``."""
        return str(self) if self.kind == "models" else f"{self.kind}/{self}"


@dataclass(frozen=True)
class File:
    """A file of a commit: blob id, size in bytes, and its pointer if it is a large one."""

    path: str
    blob: pygit2.Oid
    blob_size: int
    pointer: Pointer | None

    @property
    def size(self) -> int:
        """Size of the content in bytes."""
        return self.pointer.size if self.pointer else self.blob_size

    @property
    def etag(self) -> str:
        """The content's digest: git's sha1, of a large file its sha256."""
        return self.pointer.oid if self.pointer else str(self.blob)


class Repository:
    """A repository opened for one request. Nothing is checked out: all of it lies in ``.git``."""

    def __init__(self, id: RepoId, path: Path) -> None:
        self.id = id
        self.git_directory = path / ".git"
        self.git = pygit2.Repository(str(self.git_directory))
        self.refs = References(self.git)
        self.lfs = LfsObjects(self.git_directory)

    @property
    def private(self) -> bool:
        """Whether only its namespace may read it; so it is unless it says that it is public."""
        return self._setting("visibility") != "public"

    @property
    def created_at(self) -> str:
        """When it was created, as the Hub writes dates."""
        return self._setting("createdat") or date(self.refs.commit(MAIN).commit_time)

    def configure(self, **settings: str) -> None:
        """Store settings beside git's own, each of them atomically."""
        for name, value in settings.items():
            self.git.config[f"hub.{name}"] = value

    def _setting(self, name: str) -> str:
        try:
            return str(self.git.config[f"hub.{name}"])
        except KeyError:
            return ""

    def file(self, commit: pygit2.Commit, path: str) -> File:
        """Return a file of a commit, or raise EntryNotFound."""
        entry = trees.find(commit.tree, path)
        if entry is None or not trees.is_file(entry):
            raise entry_not_found(path)
        return self.describe(path, entry)

    def describe(self, path: str, entry: pygit2.Object) -> File:
        """Return what a tree entry says about a file."""
        _, size = self.git.odb.read_header(entry.id)
        pointer = None
        if size <= LARGEST_POINTER:
            pointer = Pointer.parse(self.content(entry.id))
            if pointer and self.lfs.size(pointer.oid) != pointer.size:
                pointer = None  # somebody's text that looks like one
        return File(path, entry.id, size, pointer)

    def content(self, blob: pygit2.Oid) -> bytes:
        """Return a blob's bytes."""
        return self.git.odb.read(blob)[1]

    def files(self, commit: pygit2.Commit) -> Iterator[tuple[str, pygit2.Object]]:
        """Yield path and tree entry of every file."""
        for path, entry in trees.walk(commit.tree, recursive=True):
            if trees.is_file(entry):
                yield path, entry

    def history(self, commit: pygit2.Commit) -> Iterator[pygit2.Commit]:
        """Yield a commit and what came before it, newest first."""
        return iter(self.git.walk(commit.id, SortMode.TOPOLOGICAL | SortMode.TIME))

    def last_commits(self, head: pygit2.Commit, paths: Sequence[str]) -> dict[str, pygit2.Commit]:
        """Return for each path the commit that last changed it."""
        sought = {path: _id_at(head, path) for path in paths}
        commits: dict[str, pygit2.Commit] = {}
        for commit in self.history(head):
            parent = commit.parents[0] if commit.parents else None
            for path, oid in list(sought.items()):
                if _id_at(commit, path) == oid and (not parent or _id_at(parent, path) != oid):
                    commits[path] = commit
                    del sought[path]
            if not sought:
                break
        return commits

    def add_commit(
        self, branch: str, parents: Sequence[pygit2.Commit], tree: pygit2.Oid, message: str,
        author: Account,
    ) -> pygit2.Commit:  # fmt: skip
        """Commit a tree; the branch moves on from its parent to it, or stays where it is."""
        who = signature(author)
        try:
            oid = self.git.create_commit(
                full_name(branch), who, who, message, tree, [p.id for p in parents]
            )
        except pygit2.GitError as error:
            if "current tip" not in str(error):
                raise
            raise stale_parent() from error  # git itself moved the branch meanwhile
        commit = self.git[oid]
        assert isinstance(commit, pygit2.Commit)
        return commit


def stale_parent() -> Exception:
    """Say that somebody committed in between."""
    return hub_error(412, "A commit has happened since. Please refresh and try again.")


def date(seconds: int) -> str:
    """Return a time as the Hub writes it; its clients take no other form."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def title_and_body(commit: pygit2.Commit) -> tuple[str, str]:
    """Return the first line of a commit's message and the rest."""
    title, _, body = commit.message.partition("\n")
    return title, body.strip()


def _id_at(commit: pygit2.Commit, path: str) -> Any:
    entry = trees.find(commit.tree, path)
    return entry.id if entry is not None else None
