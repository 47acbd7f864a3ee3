"""Error answers as the Hub gives them: clients turn their headers into exceptions."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

BAD_TOKEN = "Invalid credentials in Authorization header"  # huggingface_hub compares this text
_UNPRINTABLE = re.compile(r"[^!-~]+")  # what a header's value may not hold, and blanks
ANONYMOUS = "Invalid username or password."


class Json(JSONResponse):
    """A JSON answer in ASCII: a lone surrogate in somebody's card cannot break it."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of ``content``."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def hub_error(status: int, message: str, code: str = "") -> HTTPException:
    """Return an error; ``code`` is RepoNotFound, RevisionNotFound, EntryNotFound or nothing."""
    headers = {"X-Error-Code": code} if code else None
    return HTTPException(status, message, headers)


def repo_not_found(*, anonymous: bool = False) -> HTTPException:
    """Say that there is no such repository, or none that the caller may read."""
    if anonymous:
        return hub_error(401, ANONYMOUS, "RepoNotFound")
    return hub_error(404, "Repository not found", "RepoNotFound")


def revision_not_found(revision: str) -> HTTPException:
    """Say that a repository has no such branch, tag or commit."""
    return hub_error(404, f"Invalid rev id: {revision[:200]}", "RevisionNotFound")


def entry_not_found(path: str) -> HTTPException:
    """Say that a commit has no such file or folder."""
    return hub_error(404, f"Entry not found: {path[:200]}", "EntryNotFound")


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error's answer, its message both in the body and in X-Error-Message."""
    line = _UNPRINTABLE.sub(" ", message.encode("ascii", "backslashreplace").decode())
    header = {"X-Error-Message": line[:1000].strip()}
    return Json({"error": message}, status, {**(headers or {}), **header})


def http_exception(request: Request, error: Exception) -> Response:
    """Answer an HTTPException."""
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail, dict(error.headers or {}))
