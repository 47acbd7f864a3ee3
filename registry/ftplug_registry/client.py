"""The installed huggingface_hub: what differs between its versions 1.5 to 2.x, by presence."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def transport() -> Any:
    """Return the HTTP library whose exceptions the client raises: httpx, and httpx2 from 2.0 on.

    It may go when 2.0 is the lowest supported. Only one of the two need be installed.
    """
    from huggingface_hub.errors import HfHubHTTPError

    base = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    return sys.modules[base.__module__.partition(".")[0]]


def not_cached() -> tuple[type[Exception], ...]:
    """Return what the client raises where there is no network and the cache cannot help.

    ``RevisionResolutionError`` came with 1.31: it may be named outright when that is the lowest
    supported.
    """
    from huggingface_hub import errors

    newer = getattr(errors, "RevisionResolutionError", None)
    return (errors.LocalEntryNotFoundError, *([newer] if newer else []))


def resolve_revision(api: HfApi, repo_id: str, revision: str | None, cache_dir: Path | None) -> str:
    """Return the commit sha that a branch, tag or sha means; without a network, by the cache.

    Before 1.31 the client has no such function: a snapshot of no file gives the sha as well, and
    notes it in the cache. The second way may go when 1.31 is the lowest supported.
    """
    if hasattr(api, "resolve_revision"):
        resolved = api.resolve_revision(repo_id, revision=revision, cache_dir=cache_dir)
        return str(resolved.resolved)
    folder = api.snapshot_download(
        repo_id, revision=revision, cache_dir=cache_dir, allow_patterns=[]
    )
    return Path(folder).name
