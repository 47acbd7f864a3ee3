"""Uploads: which way each file goes, and the commit that makes all of them appear."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pygit2
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ftplug_registry.server.errors import Json, hub_error
from ftplug_registry.server.handlers.calls import Call, is_size, text_field
from ftplug_registry.server.handlers.commits import PendingCommit, lines
from ftplug_registry.server.storage.paths import checked_path
from ftplug_registry.server.storage.repository import Repository

MAX_FILES = 1000  # in one preupload request
MAX_IGNORE = 1 << 16  # bytes of .gitignore
NO_PULL_REQUESTS = "ftplug serve has no pull requests and no discussions"


def preupload(call: Call) -> Response:
    """Tell of each file whether it goes into git or to LFS, and the id of what is there now."""
    refuse_pull_request(call)
    repository, request = call.writable(), call.json()
    head = repository.refs.branch_head(call.path["revision"])
    files = request.get("files")
    if not isinstance(files, list) or len(files) > MAX_FILES:
        raise hub_error(400, f"files must be a list of at most {MAX_FILES}")
    ignored = _Ignored(repository, head, request, call.hub.store.staging)
    with ignored:
        answers = [_mode(call, repository, head, file, ignored) for file in files]
    return Json({"files": answers})


def refuse_pull_request(call: Call) -> None:
    """Answer 501 where the client asks for a pull request."""
    if call.query.get("create_pr", "0").lower() not in {"", "0", "false"}:
        raise hub_error(501, NO_PULL_REQUESTS)


def _mode(
    call: Call, repository: Repository, head: pygit2.Commit, file: Any, ignored: _Ignored
) -> dict[str, Any]:
    if not isinstance(file, dict) or not is_size(file.get("size")):
        raise hub_error(400, "each of the files needs a path and a size")
    path = checked_path(file.get("path"))
    mode = "lfs" if file["size"] > call.hub.lfs_threshold else "regular"
    answer = {"path": path, "uploadMode": mode, "shouldIgnore": ignored.covers(path)}
    try:
        existing = repository.file(head, path)
    except HTTPException:
        return answer
    if (existing.pointer is not None) == (mode == "lfs"):
        answer["oid"] = existing.etag
    return answer


class _Ignored:
    """The paths that a .gitignore covers, the request's or the repository's, as git reads it."""

    def __init__(
        self, repository: Repository, head: pygit2.Commit, request: dict[str, Any], staging: Path
    ) -> None:
        rules = text_field(request, "gitIgnore", "").encode()
        if not rules:
            try:
                file = repository.file(head, ".gitignore")
                rules = repository.content(file.blob) if file.size <= MAX_IGNORE else b""
            except HTTPException:
                rules = b""
        self._rules, self._staging = rules, staging
        self._git: pygit2.Repository | None = None

    def __enter__(self) -> None:
        if self._rules:
            self._folder = tempfile.TemporaryDirectory(dir=self._staging)
            Path(self._folder.name, ".gitignore").write_bytes(self._rules)
            self._git = pygit2.init_repository(self._folder.name)
            self._git.config["core.excludesfile"] = ""  # not what the server's user ignores

    def __exit__(self, *_: object) -> None:
        if self._git:
            self._folder.cleanup()

    def covers(self, path: str) -> bool:
        return bool(self._git and self._git.path_is_ignored(path))


async def commit(call: Call, chunks: AsyncIterator[bytes]) -> Response:
    """Make one commit of a stream of operations, or none."""
    hub = call.hub
    pending = await hub.in_pool(_begin, call)
    async for line in lines(chunks, commit_line_limit(hub.lfs_threshold)):
        await hub.in_pool(pending.add_line, line)
    made = await hub.in_pool(pending.finish, hub.store)
    call.changed(f"commit {made.id} to {pending.branch} of {pending.repository.id.url_path}")
    url = f"{hub.endpoint}/{pending.repository.id.url_path}/commit/{made.id}"
    return Json({"success": True, "commitOid": str(made.id), "commitUrl": url, "hookOutput": ""})


def _begin(call: Call) -> PendingCommit:
    refuse_pull_request(call)
    repository = call.writable()
    branch = call.path["revision"]
    repository.refs.branch_head(branch)
    return PendingCommit(repository, branch, call.signed_in(), call.hub.lfs_threshold)


def commit_line_limit(lfs_threshold: int) -> int:
    """Return how many bytes one operation may have: the largest file that goes into git."""
    return lfs_threshold * 4 // 3 + (1 << 16)


def commit_limit(lfs_threshold: int) -> int:
    """Return how many bytes all operations of a commit may have together."""
    return 16 * commit_line_limit(lfs_threshold) + (16 << 20)
