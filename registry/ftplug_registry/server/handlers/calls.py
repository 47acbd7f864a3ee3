"""Requests as the handlers see them: the caller known, the body read within bounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from starlette.datastructures import Headers, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ftplug.cli import printable
from ftplug_registry.server.accounts import Account, Accounts
from ftplug_registry.server.errors import ANONYMOUS, BAD_TOKEN, hub_error, repo_not_found
from ftplug_registry.server.storage.lfs import Signer
from ftplug_registry.server.storage.repository import RepoId, Repository
from ftplug_registry.server.storage.store import RepositoryStore

changes = logging.getLogger("ftplug_registry.server.changes")

MAX_JSON = 4 << 20  # bytes of a request body, where it is not an upload
DRAIN = 256 << 20  # bytes read of a request that is refused already
DRAIN_SECONDS = 10.0
IDLE = 60.0  # seconds that a client may take for the next piece of its body

T = TypeVar("T")


@dataclass(frozen=True)
class Hub:
    """What every handler works on. Sizes are in bytes."""

    endpoint: str
    accounts: Accounts
    store: RepositoryStore
    signer: Signer
    pool: Executor
    lfs_threshold: int
    max_upload: int
    tokens_required: bool = False

    @property
    def hosts(self) -> list[str]:
        """The names of this machine that requests may have in their address."""
        own = urlsplit(self.endpoint).hostname or ""
        return list(dict.fromkeys(["127.0.0.1", "localhost", own]))

    async def in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run blocking work in a thread: it must not hold up other clients."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *arguments)


@dataclass(frozen=True)
class Call:
    """One request to ``hub`` by ``account`` (None: anonymous); ``path`` values are %-decoded."""

    hub: Hub
    account: Account | None
    kind: str
    path: dict[str, str]
    query: QueryParams
    headers: Headers
    method: str
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """Return the body as a JSON object; 400 if it is none."""
        return json_object(self.body)

    def flag(self, name: str) -> bool:
        """Say whether a query parameter is set to true."""
        return self.query.get(name, "").lower() in {"1", "true"}

    def number(self, name: str, default: int, most: int) -> int:
        """Return a query parameter between 0 and ``most``; 400 if it is not a number."""
        text = self.query.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) <= 9):
            raise hub_error(400, f"{name} must be a number")
        return min(int(text), most)

    def changed(self, what: str) -> None:
        """Note who changed what, in one line that a terminal may be shown; never a token."""
        who = self.account.name if self.account else "nobody"
        changes.info("%s: %s", who, printable(what))

    def signed_in(self) -> Account:
        """Return the caller; 401 if anonymous."""
        if self.account is None:
            raise hub_error(401, ANONYMOUS)
        return self.account

    def owner_of(self, namespace: str) -> Account:
        """Return the caller if it may write in a namespace; 401 or 403 otherwise."""
        account = self.signed_in()
        if not account.may_write(namespace):
            raise hub_error(403, f"{account.name} has no write access to the namespace {namespace}")
        return account

    @property
    def repo_id(self) -> RepoId:
        """The repository that the address names."""
        return RepoId(self.kind, self.path["namespace"], self.path["name"])

    def may_read(self, repository: Repository) -> bool:
        """Say whether the caller may see a repository."""
        namespace = repository.id.namespace
        return not repository.private or bool(self.account and self.account.may_write(namespace))

    def readable(self, id: RepoId | None = None) -> Repository:
        """Open a repository (the address's); what the caller may not read looks absent."""
        repository = self.hub.store.find(id or self.repo_id)
        if repository is None or not self.may_read(repository):
            raise repo_not_found(anonymous=self.account is None)
        return repository

    def writable(self, id: RepoId | None = None) -> Repository:
        """Open a repository to change it; 401 or 403 if the caller may read it only."""
        repository = self.readable(id)
        self.owner_of(repository.id.namespace)
        return repository


Handler = Callable[[Call], Response]
StreamHandler = Callable[[Call, AsyncIterator[bytes]], Awaitable[Response]]


def refuse_other_sites(hub: Hub, request: Request) -> None:
    """Refuse what a page of another site lets a browser send: 403; 415 for a form's text.

    Browsers name the site in ``Origin``; clients of the Hub have none.
    """
    if request.method in ("GET", "HEAD"):
        return
    own = {hub.endpoint, hub.endpoint.replace("127.0.0.1", "localhost")}
    if request.headers.get("origin", hub.endpoint) not in own:
        raise hub_error(403, "Requests from other sites are refused")
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise hub_error(403, "Requests from other sites are refused")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("text/plain", "multipart/form-data"):
        raise hub_error(415, f"{kind} is not taken here: send application/json")


async def read_call(hub: Hub, kind: str, request: Request) -> Call:
    """Return a request without its body; 401 for an unknown token, 400 for a bad %-escape."""
    try:
        path = {name: unquote(v, errors="strict") for name, v in request.path_params.items()}
    except UnicodeDecodeError as error:
        raise hub_error(400, "the address is not UTF-8") from error
    account = _caller(hub.accounts, request.headers.get("authorization"))
    return Call(hub, account, kind, path, request.query_params, request.headers, request.method)


def _caller(accounts: Accounts, authorization: str | None) -> Account | None:
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    account = accounts.by_token(token.strip()) if scheme.lower() == "bearer" else None
    if account is None:
        raise hub_error(401, BAD_TOKEN)
    return account


async def drain(request: Request) -> None:
    """Read what is left of a refused request, within bounds.

    A client that is still sending when the connection closes sees a broken pipe, not the answer.
    """
    with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(DRAIN_SECONDS):
            received = 0
            async for chunk in request.stream():
                received += len(chunk)
                if received > DRAIN:
                    return


async def body_chunks(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Yield a request's body; 413 once it exceeds ``limit`` bytes, 408 if it stops coming."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise too_large(limit)
    received = 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(IDLE):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise hub_error(408, f"nothing received for {IDLE:.0f} seconds") from error
        except ClientDisconnect as error:
            raise hub_error(400, "the client hung up") from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limit:
            raise too_large(limit)
        if chunk:
            yield chunk


def too_large(limit: int) -> Exception:
    """Say that a request is larger than ``limit`` bytes."""
    return hub_error(413, f"The request has more than {limit} bytes, the limit here")


def json_object(data: bytes) -> dict[str, Any]:
    """Return a JSON object, or raise 400."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise hub_error(400, "the request is not valid JSON") from error
    if not isinstance(value, dict):
        raise hub_error(400, "the request must be a JSON object")
    return value


def text_field(value: dict[str, Any], name: str, default: str | None = None) -> str:
    """Return a text field of a request; 400 if it is missing without default, or no clean text."""
    text = value.get(name)
    if text is None and default is not None:
        return default
    if not isinstance(text, str) or "\0" in text or len(text) > 1 << 16:
        raise hub_error(400, f"{name} must be a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise hub_error(400, f"{name} must be a string of valid Unicode") from error
    return text


def is_size(value: object) -> bool:
    """Say whether a value of a request is a size in bytes."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
