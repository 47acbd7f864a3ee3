"""Files at a revision: whole, by ranges, or their headers alone."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pygit2
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ftplug_registry.server.errors import error_response
from ftplug_registry.server.handlers.calls import Call, Hub
from ftplug_registry.server.storage.repository import File, Repository

BLOCK = 1 << 20

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


def resolve(call: Call) -> Response:
    """Serve a file; ``X-Repo-Commit`` is the commit it comes from, also at a branch or a tag."""
    return _serve(call, *_found(call))


def raw(call: Call) -> Response:
    """Serve what git stores: of a large file its pointer. The npm client asks it for existence."""
    repository, commit, file = _found(call)
    return _serve(call, repository, commit, dataclasses.replace(file, pointer=None))


def _found(call: Call) -> tuple[Repository, pygit2.Commit, File]:
    repository = call.readable()
    commit = repository.refs.commit(call.path["revision"])
    return repository, commit, repository.file(commit, call.path["path"])


def _serve(call: Call, repository: Repository, commit: pygit2.Commit, file: File) -> Response:
    headers = {
        "X-Repo-Commit": str(commit.id),
        "ETag": f'"{file.etag}"',
        "Accept-Ranges": "bytes",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-cache",
    }
    if file.pointer:
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.etag}"'}
    wanted = _wanted(call, file.size, headers["ETag"])
    start, stop = wanted or (0, file.size)
    if wanted and start >= stop:
        headers["Content-Range"] = f"bytes */{file.size}"
        return error_response(416, "The range lies outside the file", headers)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size}"
    status = 206 if wanted else 200
    headers |= {"Content-Length": str(stop - start), "Content-Type": "application/octet-stream"}
    if call.method == "HEAD":
        return Response(status_code=status, headers=headers)
    if file.pointer:
        path = repository.lfs.path(file.pointer.oid)
        return _Part(call.hub, path, (start, stop), status, headers)
    return Response(repository.content(file.blob)[start:stop], status, headers)


def _wanted(call: Call, size: int, etag: str) -> tuple[int, int] | None:
    """Return first byte and end of the range that is asked for, None for the whole file.

    Several ranges, or a range of another version of the file, ask for the whole: RFC 9110.
    """
    match = _RANGE.fullmatch(call.headers.get("range", "").replace(" ", ""))
    if call.method != "GET" or not match or call.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if (first and last and int(last) < int(first)) or not (first or last):
        return None
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


class _Part(Response):
    """A part of a file on disk, read block by block off the event loop."""

    def __init__(
        self, hub: Hub, path: Path, part: tuple[int, int], status: int, headers: dict[str, str]
    ) -> None:
        super().__init__(status_code=status, headers=headers)
        self._hub, self._path, self._part = hub, path, part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, stop = self._part
        with self._path.open("rb") as file:
            file.seek(start)
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            for at in range(start, stop, BLOCK):
                block = await self._hub.in_pool(file.read, min(BLOCK, stop - at))
                await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
