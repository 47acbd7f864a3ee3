"""The ASGI application: which handler answers which address."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pygit2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ftplug_registry.server.errors import error_response, http_exception, hub_error, repo_not_found
from ftplug_registry.server.handlers import (
    contents,
    downloads,
    lfs_transfers,
    listing,
    pages,
    refs,
    repos,
    uploads,
)
from ftplug_registry.server.handlers.calls import (
    MAX_JSON,
    Call,
    Handler,
    Hub,
    StreamHandler,
    body_chunks,
    drain,
    read_call,
    refuse_other_sites,
)
from ftplug_registry.server.storage.store import KINDS

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(hub: Hub) -> ASGIApp:
    """Return the application that serves a Hub."""
    routes = _general_routes(hub)
    for kind in KINDS:
        routes += _api_routes(hub, kind) + _file_routes(hub, kind)
    routes += _page_routes(hub)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hub.hosts)],
        exception_handlers={
            HTTPException: http_exception,
            pygit2.GitError: _broken,
            OSError: _broken,
            Exception: _unexpected,
        },
    )
    app.router.redirect_slashes = False
    return _RawPaths(app)


class _RawPaths:
    """Routes by the path as it was sent: ``feat%2Fx`` is one segment, a branch with a slash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if raw := scope.get("raw_path"):
            scope = {**scope, "path": raw.decode("latin-1")}
        await self._app(scope, receive, send)


def _general_routes(hub: Hub) -> list[Route]:
    def route(method: str, path: str, handler: Handler) -> Route:
        return Route(path, _whole(hub, "", handler), methods=[method])

    return [
        route("GET", "/api/whoami-v2", repos.whoami),
        route("POST", "/api/repos/create", repos.create),
        route("DELETE", "/api/repos/delete", repos.delete),
        route("POST", "/api/repos/move", repos.move),
        route("POST", "/api/validate-yaml", repos.validate_yaml),
    ]


def _api_routes(hub: Hub, kind: str) -> list[Route]:
    repository = f"/api/{kind}/{{namespace}}/{{name}}"
    limit = uploads.commit_limit(hub.lfs_threshold)

    def route(method: str, path: str, handler: Handler) -> Route:
        return Route(repository + path, _whole(hub, kind, handler), methods=[method])

    return [
        Route(f"/api/{kind}", _whole(hub, kind, listing.listing), methods=["GET"]),
        Route(f"/api/{kind}/{{name}}", _whole(hub, kind, _no_namespace), methods=["GET"]),
        route("GET", "", listing.info),
        route("GET", "/revision/{revision}", listing.info),
        route("GET", "/tree/{revision}", contents.tree),
        route("GET", "/tree/{revision}/{path:path}", contents.tree),
        route("POST", "/paths-info/{revision}", contents.paths_info),
        route("GET", "/commits/{revision}", contents.commits),
        route("GET", "/refs", refs.refs),
        route("POST", "/branch/{branch}", refs.create_branch),
        route("DELETE", "/branch/{branch}", refs.delete_branch),
        route("POST", "/tag/{revision}", refs.create_tag),
        route("DELETE", "/tag/{revision}", refs.delete_tag),
        route("PUT", "/settings", repos.settings),
        route("POST", "/preupload/{revision}", uploads.preupload),
        route("GET", "/xet-write-token/{revision}", _no_xet),
        route("GET", "/discussions{rest:path}", _no_discussions),
        route("POST", "/discussions{rest:path}", _no_discussions),
        Route(
            f"{repository}/commit/{{revision}}",
            _streamed(hub, kind, uploads.commit, limit),
            methods=["POST"],
        ),
    ]


def _file_routes(hub: Hub, kind: str) -> list[Route]:
    prefix = "" if kind == "models" else f"/{kind}"
    repository = f"{prefix}/{{namespace}}/{{name}}"
    file = "/{revision}/{path:path}"
    objects = f"{repository}.git/info/lfs/objects"
    put_object = _streamed(hub, kind, lfs_transfers.put_object, hub.max_upload)
    return [
        Route(f"{repository}/resolve{file}", _whole(hub, kind, downloads.resolve), methods=["GET"]),
        Route(f"{repository}/raw{file}", _whole(hub, kind, downloads.raw), methods=["GET"]),
        Route(f"{objects}/batch", _whole(hub, kind, lfs_transfers.batch), methods=["POST"]),
        Route(f"{objects}/verify", _whole(hub, kind, lfs_transfers.verify), methods=["POST"]),
        Route(f"{objects}/{{oid}}", put_object, methods=["PUT"]),
        Route(
            f"{prefix}/{{name}}/resolve{file}",
            _whole(hub, kind, _no_namespace),
            methods=["GET"],
        ),
    ]


def _page_routes(hub: Hub) -> list[Route]:
    """Return what a browser asks for; they come last, for they take what is left of addresses."""
    repository = "/{namespace}/{name}"
    pages_by_path: dict[str, Handler] = {
        "/": pages.home,
        "/-/site.css": pages.style,
        "/-/site.js": pages.script,
        "/-/comparisons": pages.comparisons,
        "/-/bases": pages.bases,
        "/{owner}": pages.home,
        "/{owner}/": pages.home,
        repository: pages.page,
        f"{repository}/": pages.page,
        f"{repository}/tree/{{revision:path}}": pages.page,
        f"{repository}/commit/{{revision}}": pages.page,
    }
    return [
        Route(path, _whole(hub, "models", handler), methods=["GET"])
        for path, handler in pages_by_path.items()
    ]


def _whole(hub: Hub, kind: str, handler: Handler) -> Endpoint:
    """Read the body, then run the handler in a thread."""

    async def read_and_handle(call: Call, chunks: AsyncIterator[bytes]) -> Response:
        body = b"".join([chunk async for chunk in chunks])
        return await hub.in_pool(handler, dataclasses.replace(call, body=body))

    return _streamed(hub, kind, read_and_handle, MAX_JSON)


def _streamed(hub: Hub, kind: str, handler: StreamHandler, limit: int) -> Endpoint:
    """Let the handler read the body piece by piece."""

    async def endpoint(request: Request) -> Response:
        try:
            refuse_other_sites(hub, request)
            call = await read_call(hub, kind, request)
            if hub.tokens_required and "oid" not in call.path:  # uploads have signed addresses
                call.signed_in()
            if "namespace" not in call.path:
                return await handler(call, body_chunks(request, limit))
            with hub.store.watched(call.repo_id) as is_gone:
                try:
                    return await handler(call, body_chunks(request, limit))
                except (pygit2.GitError, KeyError, OSError):
                    if is_gone():
                        raise repo_not_found(anonymous=call.account is None) from None
                    raise
        except HTTPException:
            await drain(request)
            raise

    return endpoint


def _no_namespace(call: Call) -> Response:
    raise repo_not_found(anonymous=call.account is None)


def _no_xet(call: Call) -> Response:
    raise hub_error(404, "ftplug serve has no Xet storage: set HF_HUB_DISABLE_XET=1")


def _no_discussions(call: Call) -> Response:
    raise hub_error(501, uploads.NO_PULL_REQUESTS)


def _broken(request: Request, error: Exception) -> Response:
    """Answer that a repository cannot be read or written: a full disk, a damaged object."""
    logger.error("%s: %s", type(error).__name__, error)
    return error_response(500, "The repository cannot be read or written; see the server's log")


def _unexpected(request: Request, error: Exception) -> Response:
    return error_response(500, "Internal server error")
