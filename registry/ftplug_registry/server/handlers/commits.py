"""The commit request: a stream of JSON lines, each applied as it comes, committed at its end."""

from __future__ import annotations

import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import pygit2

from ftplug_registry.server.accounts import Account
from ftplug_registry.server.errors import hub_error, repo_not_found
from ftplug_registry.server.handlers.calls import json_object, text_field, too_large
from ftplug_registry.server.storage import metadata
from ftplug_registry.server.storage.paths import checked_path
from ftplug_registry.server.storage.repository import Repository, stale_parent
from ftplug_registry.server.storage.store import RepositoryStore
from ftplug_registry.server.storage.trees import NewTree

MAX_OPERATIONS = 25_000
MAX_ATTRIBUTES_LINE = 2048  # git's own bound on .gitattributes

_PARENT = re.compile(r"[0-9a-fA-F]{5,40}")


async def lines(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    """Yield the lines of a body but for empty ones; 413 for one of more than ``limit`` bytes."""
    rest = bytearray()
    async for chunk in chunks:
        *complete, last = chunk.split(b"\n")
        for part in complete:
            if rest or part:
                yield bytes(rest + part)
                rest.clear()
        rest += last
        if len(rest) > limit:
            raise too_large(limit)
    if rest:
        yield bytes(rest)


@dataclass
class _Change:
    """A path to remove, or to set to a blob."""

    path: str
    blob: pygit2.Oid | None = None
    lfs_oid: str = ""
    directory: bool = False


@dataclass
class PendingCommit:
    """A commit being received: blobs are stored at once, the tree and the ref at the end.

    Until then nothing refers to the blobs; a request that fails leaves the branch as it was.
    """

    repository: Repository
    branch: str
    author: Account
    lfs_threshold: int
    message: str = ""
    parent: str = ""
    changes: list[_Change] = field(default_factory=list)

    def add_line(self, line: bytes) -> None:
        """Take one line; 400 says what is wrong with it."""
        item = json_object(line)
        key, value = item.get("key"), item.get("value")
        if not isinstance(value, dict):
            raise hub_error(400, "each line must be {key, value} with an object as value")
        if key == "header":
            self._header(value)
            return
        if not self.message:
            raise hub_error(400, "the first line must be the header")
        if len(self.changes) >= MAX_OPERATIONS:
            raise hub_error(413, f"a commit may have {MAX_OPERATIONS} operations, no more")
        self.changes.append(self._change(key, value))

    def finish(self, store: RepositoryStore) -> pygit2.Commit:
        """Commit on top of the branch; 412 if it is not where ``parentCommit`` says.

        Without operations (a client that found all its files ignored) the head is the answer.
        """
        if not self.message:
            raise hub_error(400, "the commit has no header")
        with store.locked(self.repository.id):
            repository = store.reopen(self.repository.id)
            head = self._checked_head(repository)
            if not self.changes:
                return head
            tree = NewTree(repository.git, head.tree)
            for change in self.changes:
                self._apply(change, tree, repository)
            message = self.message
            return repository.add_commit(self.branch, [head], tree.write(), message, self.author)

    def _header(self, value: dict[str, Any]) -> None:
        if self.message:
            raise hub_error(400, "a commit has one header")
        summary = text_field(value, "summary").strip()
        if not summary:
            raise hub_error(400, "summary must not be empty")
        description = text_field(value, "description", "").strip()
        self.message = f"{summary}\n\n{description}" if description else summary
        self.parent = text_field(value, "parentCommit", "").lower()
        if self.parent and not _PARENT.fullmatch(self.parent):
            raise hub_error(400, "parentCommit must have 5 to 40 hex digits")
        self._checked_head(self.repository)  # early: before the files come

    def _checked_head(self, repository: Repository) -> pygit2.Commit:
        head = repository.refs.branch_head(self.branch)
        if not str(head.id).startswith(self.parent):
            raise stale_parent()
        return head

    def _change(self, key: object, value: dict[str, Any]) -> _Change:
        path = value.get("path")
        if key == "deletedFolder" and isinstance(path, str):
            path = path.removesuffix("/")
        path = checked_path(path)
        if key == "file":
            return _Change(path, self._blob(path, value))
        if key == "lfsFile":
            if value.get("algo", "sha256") != "sha256":
                raise hub_error(400, "lfsFile: algo must be sha256")
            pointer = self.repository.lfs.pointer(value.get("oid"), value.get("size"))
            return _Change(path, self.repository.git.create_blob(pointer.text()), pointer.oid)
        if key in ("deletedFile", "deletedFolder"):
            return _Change(path, directory=key == "deletedFolder")
        raise hub_error(400, f"unknown operation {ascii(key)[:100]}")

    def _blob(self, path: str, value: dict[str, Any]) -> pygit2.Oid:
        content = value.get("content")
        if value.get("encoding", "base64") != "base64" or not isinstance(content, str):
            raise hub_error(400, f"{path}: content must be a string in base64")
        try:
            data = binascii.a2b_base64(content, strict_mode=bool(content))
        except (binascii.Error, ValueError) as error:
            raise hub_error(400, f"{path}: content is not valid base64") from error
        if len(data) > self.lfs_threshold:
            raise hub_error(413, f"{path}: files over {self.lfs_threshold} bytes go through LFS")
        if path == "README.md" and (errors := metadata.errors(data.decode(errors="replace"))):
            raise hub_error(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        if path.endswith(".gitattributes") and _has_long_line(data):
            raise hub_error(400, f"{path}: a line has {MAX_ATTRIBUTES_LINE} bytes or more")
        return self.repository.git.create_blob_fromiobase(BytesIO(data))

    def _apply(self, change: _Change, tree: NewTree, repository: Repository) -> None:
        if change.blob is None:
            tree.remove(change.path, directory=change.directory)
            return
        if change.blob not in repository.git:
            raise repo_not_found()  # deleted and created again since the request began
        if change.lfs_oid:
            repository.lfs.pointer(change.lfs_oid)
        tree.add(change.path, change.blob)


def _has_long_line(data: bytes) -> bool:
    return any(len(line) >= MAX_ATTRIBUTES_LINE for line in data.split(b"\n"))
