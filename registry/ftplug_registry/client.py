"""The installed huggingface_hub: what differs between its versions 1.5 to 2.x, by presence."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from ftplug.errors import RegistryError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_HEADER = "x-ftplug-watcher"  # names who watches a request; it is never sent
_WATCHER = "ftplug.watcher"  # the watcher among a request's extensions, which redirects keep


class Watcher(Protocol):
    """Sees every request of one client before it is sent, and every answer before it is read."""

    def request(self, request: Any) -> None:
        """Check a request of httpx; raise to refuse it."""

    def response(self, response: Any) -> None:
        """Check an answer of httpx, whose body is unread; raise to refuse it."""


_WATCHERS: WeakValueDictionary[str, Watcher] = WeakValueDictionary()


def transport() -> Any:
    """Return the HTTP library whose exceptions the client raises: httpx, and httpx2 from 2.0 on.

    It may go when 2.0 is the lowest supported. Only one of the two need be installed.
    """
    from huggingface_hub.errors import HfHubHTTPError

    base = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
    return sys.modules[base.__module__.partition(".")[0]]


def headers_of(watcher: Watcher) -> dict[str, str]:
    """Return the headers for ``HfApi`` by which its requests, and no others, are watched."""
    key = uuid.uuid4().hex
    _WATCHERS[key] = watcher
    return {_HEADER: key}


def let_watch() -> None:
    """Let the client's sessions, also later ones, show their requests to the watchers.

    A factory of sessions that the user has set goes on to make them.
    """
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    factory = getattr(_http, "_GLOBAL_CLIENT_FACTORY", _http.default_client_factory)
    if not isinstance(factory, _Watched):
        set_client_factory(_Watched(factory))


class _Watched:
    """A factory of sessions with our hooks behind those they have."""

    def __init__(self, factory: Callable[[], Any]) -> None:
        self._factory = factory

    def __call__(self) -> Any:
        session = self._factory()
        hooks: dict[str, list[Any]] = {"request": [_on_request], "response": [_on_response]}
        for kind, own in session.event_hooks.items():
            hooks[kind] = [*(hook for hook in own if hook not in hooks[kind]), *hooks[kind]]
        session.event_hooks = hooks
        return session


def _on_request(request: Any) -> None:
    if (key := request.headers.pop(_HEADER, None)) is not None:
        if (watcher := _WATCHERS.get(key)) is None:
            raise RegistryError("the Hub that this client belongs to is gone: keep it")
        request.extensions[_WATCHER] = watcher
    if (watcher := request.extensions.get(_WATCHER)) is not None:
        watcher.request(request)


def _on_response(response: Any) -> None:
    if (watcher := response.request.extensions.get(_WATCHER)) is not None:
        watcher.response(response)


def read_through(response: Any, read: Callable[[Iterator[bytes]], Iterator[bytes]]) -> None:
    """Let the body of an answer that is still unread come through ``read``."""
    stream = response.stream

    class Through(transport().SyncByteStream):  # type: ignore[misc]  # of either library
        def __iter__(self) -> Iterator[bytes]:
            yield from read(iter(stream))

        def close(self) -> None:
            stream.close()

    response.stream = Through()


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


def content_of(api: HfApi, repo_id: str, name: str, sha: str) -> bytes:
    """Return a file of a commit by one request; the client's own way takes two."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]
        build_hf_headers,
        hf_raise_for_status,
        http_backoff,
    )

    url = hf_hub_url(repo_id, name, revision=sha, endpoint=api.endpoint)
    headers = build_hf_headers(
        token=api.token,
        library_name=api.library_name,
        library_version=api.library_version,
        headers=api.headers,
    )
    response = http_backoff("GET", url, headers=headers)
    hf_raise_for_status(response)
    return bytes(response.content)
