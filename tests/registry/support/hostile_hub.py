"""A Hub that lies, on loopback, in the ways of ``hostile_lies``.

with HostileHub(artifact) as hub:
    hub.lie = BEHAVIOURS["etag is an absolute path"]
    pull("o/r", hub=Hub(hub.endpoint, TOKEN, cache))

Without a lie it is an honest Hub of one repository.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

REPO = "o/r"
SHA, OTHER_SHA = "a" * 40, "b" * 40
WEIGHTS = "adapter_model.safetensors"
MANIFEST = "ftplug.json"
PIECE = 2**16  # bytes sent at once
MOST = 2**26  # bytes after which even a bomb ends: a client that takes them has failed


@dataclass
class Answer:
    """One answer; a body that is no bytes comes chunked, and None closes the connection."""

    body: bytes | Iterator[bytes] | None = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause: float = 0.0  # seconds between pieces
    raw: bool = False  # the body is all there is: no status line, no headers


Change = Callable[[Answer, "Request"], Answer]


@dataclass(frozen=True)
class Request:
    """What is asked: ``kind`` is info, tree, file, list, other or elsewhere; ``name`` a file's."""

    hub: HostileHub
    kind: str
    method: str
    path: str
    name: str = ""
    number: int = 0  # of the requests for this path so far


@dataclass(frozen=True)
class Lie:
    """A change of the answers of one kind; of files to ``name`` alone, with ``methods``."""

    kind: str
    change: Change
    name: str = WEIGHTS
    methods: tuple[str, ...] = ("GET", "HEAD")
    pulls: bool = False  # there is nothing to refuse: what is asked for comes

    def applies(self, request: Request) -> bool:
        """Say whether this answer is lied about."""
        mine = self.kind == request.kind and request.method in self.methods
        return mine and (self.kind != "file" or self.name in ("", request.name))


class HostileHub:
    """The server and, at another port, ``elsewhere``: a host that must never see a token."""

    def __init__(self, artifact: Path, outside: Path) -> None:
        names = sorted(path for path in artifact.rglob("*") if path.is_file())
        self.files = {str(path.relative_to(artifact)): path.read_bytes() for path in names}
        self.outside = outside  # where odd names lead
        self.lie: Lie | None = None
        self.stopped = threading.Event()
        self.forget()

    def forget(self) -> None:
        """Count from nothing."""
        self.seen, self.foreign = {}, []

    def __enter__(self) -> HostileHub:
        self._servers = [_Server(("127.0.0.1", 0), _Handler) for _ in range(2)]
        for server in self._servers:
            server.hub, server.daemon_threads = self, True
            run = {"target": server.serve_forever, "kwargs": {"poll_interval": 0.01}}
            threading.Thread(**run, daemon=True).start()
        ports = [server.server_port for server in self._servers]
        self.endpoint, self.elsewhere = (f"http://127.0.0.1:{port}" for port in ports)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def answer(self, method: str, path: str) -> Answer:
        """Return what is told: the truth, or what the lie makes of it."""
        request = self._request(method, path)
        answer = self._truth(request)
        if self.lie and self.lie.applies(request):
            return self.lie.change(answer, request)
        return answer

    def _request(self, method: str, path: str) -> Request:
        plain = unquote(path.partition("?")[0])
        self.seen[method, plain] = number = self.seen.get((method, plain), 0) + 1
        kinds = {f"/api/models/{REPO}/tree": "tree", f"/api/models/{REPO}": "info"}
        kinds |= {f"/{REPO}/resolve/": "file", "/api/models": "list"}
        kind = next((kinds[start] for start in kinds if plain.startswith(start)), "other")
        name = plain.split("/", 5)[-1] if kind == "file" else ""
        return Request(self, kind, method, path, name, number)

    def _truth(self, request: Request) -> Answer:
        if request.kind == "tree":
            return as_json([tree_item(name, data) for name, data in self.files.items()])
        if request.kind == "info":
            return as_json(self.info())
        if request.kind == "list":
            return as_json([self.info()])
        if request.name not in self.files:
            return Answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
        data = self.files[request.name]
        headers = {"X-Repo-Commit": SHA, "ETag": f'"{blob_oid(data)}"'}
        return Answer(data, headers=headers)

    def info(self, **changes: Any) -> dict[str, Any]:
        """Return the repository's description."""
        day = "2025-01-01T00:00:00.000000Z"
        siblings = [{"rfilename": name} for name in self.files]
        honest = {"_id": "x", "id": REPO, "modelId": REPO, "sha": SHA, "private": False}
        honest |= {"tags": ["ftplug", "ftplug:lora"], "cardData": {}, "siblings": siblings}
        return honest | {"createdAt": day, "lastModified": day} | changes


class _Server(ThreadingHTTPServer):
    hub: HostileHub

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server.hub
        if self.server.server_port == int(hub.elsewhere.rpartition(":")[2]):
            hub.foreign.append((self.path, self.headers.get("authorization")))
            data = hub.files[WEIGHTS] if self.path.startswith("/honest") else b"[]"
            self._send(Answer(data, headers={"X-Repo-Commit": SHA, "ETag": f'"{blob_oid(data)}"'}))
            return
        if length := int(self.headers.get("content-length") or 0):
            self.rfile.read(length)
        try:
            self._send(hub.answer(self.command, self.path))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def _send(self, answer: Answer) -> None:
        body = answer.body
        if body is None or answer.raw:
            self.close_connection = True
            for piece in () if body is None else body:
                self._piece(piece, answer.pause)
            return
        self.send_response(answer.status)
        length = {"Content-Length": str(len(body))} if isinstance(body, bytes) else {}
        chunked = {} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"}
        for name, value in ({"Content-Type": "application/json"} | length | chunked).items():
            if name not in answer.headers:
                self.send_header(name, value)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        pieces = body if not isinstance(body, bytes) else _pieces(body)
        for piece in pieces:
            self.wfile.write(f"{len(piece):x}\r\n".encode() if chunked else b"")
            self._piece(piece, answer.pause)
            self.wfile.write(b"\r\n" if chunked else b"")
        self.wfile.write(b"0\r\n\r\n" if chunked else b"")
        if isinstance(body, bytes) and answer.headers.get("Content-Length", str(len(body))) != str(
            len(body)
        ):
            self.close_connection = True

    def _piece(self, piece: bytes, pause: float) -> None:
        self.wfile.write(piece)
        self.wfile.flush()
        if pause and self.server.hub.stopped.wait(pause):
            raise BrokenPipeError


def _pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), PIECE):
        yield body[at : at + PIECE]


def blob_oid(data: bytes) -> str:
    """Return git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def tree_item(name: Any, data: bytes) -> dict[str, Any]:
    """Return what a tree says of a file."""
    return {"type": "file", "path": name, "oid": blob_oid(data), "size": len(data)}


def as_json(value: Any) -> Answer:
    """Return a JSON answer."""
    return Answer(json.dumps(value).encode())
