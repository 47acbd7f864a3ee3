"""Asking an OpenAI-compatible server: bounded in time and bytes, and nowhere else than asked."""

from __future__ import annotations

import json
import os
import queue
import re
import threading
from dataclasses import dataclass, field
from typing import Any

from ftplug.errors import FtplugError, one_line
from ftplug_registry.client import transport

KEY = "FTPLUG_SERVER_KEY"  # the variable that holds the server's key
LARGEST = 4 * 2**20  # bytes of one answer
PATIENCE = 120.0  # seconds for one answer: a server may load the model first
_BUSY = (429, 502, 503, 504)  # 500 and 501: some say so that they do not know a field
_HOPS = 3  # redirects within one host
_LOCAL = ("localhost", "127.0.0.1", "::1")


class ServerError(FtplugError):
    """A server cannot be asked, or answers with what no completion is."""


@dataclass(frozen=True)
class Server:
    """An address such as ``http://127.0.0.1:8000``, with or without ``/v1``.

    Raises :class:`ServerError` for one that is no http or https address, or holds a password.
    """

    url: str
    patience: float = PATIENCE
    _address: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        library = transport()
        try:
            address = library.URL(self.url.strip())
        except (library.InvalidURL, ValueError, TypeError) as error:
            raise ServerError(f"{self.url!r:.100} is no address: {error}") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise ServerError(f"{self.url!r:.100} is no http or https address of a server")
        if address.userinfo:
            raise ServerError(f"the server's address holds a password: give the key in ${KEY}")
        path = address.path.rstrip("/").removesuffix("/v1")
        _refuse_key(os.environ.get(KEY))
        object.__setattr__(
            self, "_address", address.copy_with(path=f"{path}/v1/completions", query=None)
        )

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and JSON of ``POST /v1/completions``; None where the body is no JSON.

        Raises :class:`ServerError` where no answer comes, where it is too large or too slow, leads
        to another host, or where the key is refused.
        """
        status, content = self._within_patience(json.dumps(body).encode())
        if status in (401, 403):
            given = "refuses that key" if os.environ.get(KEY) else "asks for a key"
            raise ServerError(f"{self} {given} (HTTP {status}): set ${KEY} to the server's key")
        if status in _BUSY:
            why = said(_json(content))
            raise ServerError(f"{self} answers HTTP {status}{why}: try again later")
        return status, _json(content)

    def __str__(self) -> str:
        return str(self._address.copy_with(path="/")).rstrip("/")[:200]

    def _within_patience(self, body: bytes) -> tuple[int, bytes]:
        """Ask in a thread that may be left behind: headers may drip for as long as they like."""
        answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._asked(body))
            except Exception as error:
                answers.put(error)

        threading.Thread(target=ask, daemon=True).start()
        try:
            answer = answers.get(timeout=self.patience)
        except queue.Empty:
            raise ServerError(f"{self} gave no answer in {self.patience:.0f} seconds") from None
        if isinstance(answer, FtplugError):
            raise answer
        if isinstance(answer, Exception):
            reason = one_line(answer)[:200] or type(answer).__name__
            raise ServerError(f"{self} cannot be asked: {reason}") from answer
        return answer  # type: ignore[no-any-return]

    def _asked(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        local = self._address.host in _LOCAL  # no proxy knows the way there
        with transport().Client(timeout=self.patience, trust_env=not local) as client:
            address = self._address
            for _ in range(1 + _HOPS):
                request = client.build_request("POST", address, content=body, headers=headers)
                response = client.send(request, stream=True, follow_redirects=False)
                try:
                    if not response.is_redirect:
                        return response.status_code, self._read(response)
                    if "location" not in response.headers:
                        raise ServerError(
                            f"{self} redirects (HTTP {response.status_code}) and does not say where"
                        )
                    address = self._on_this_host(address.join(response.headers["location"]))
                finally:
                    response.close()
        raise ServerError(f"{self} redirects without end")

    def _on_this_host(self, address: Any) -> Any:
        own = self._address
        if (address.scheme, address.host, address.port) != (own.scheme, own.host, own.port):
            raise ServerError(
                f"{self} redirects to another host ({address.host[:100]!r}), which is not "
                "followed: name the server itself"
            )
        return address

    def _read(self, response: Any) -> bytes:
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):  # a few bytes of it may stand for gigabytes
            raise ServerError(
                f"{self} answers in {encoding[:40]!r}, which was not asked for: let it, or what "
                "stands before it, send its answers as they are"
            )
        content = bytearray()
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > LARGEST:
                raise ServerError(f"{self} answers with more than {LARGEST:,} bytes")
        return bytes(content)


def _refuse_key(key: str | None) -> None:
    """Refuse a key that no header can hold, before a library prints it in its error."""
    if key and not re.fullmatch("[!-~]([ -~]*[!-~])?", key):
        raise ServerError(
            f"${KEY} has a line end, a space at an end or a letter beyond ASCII, which no key of a "
            "server has: set it anew"
        )


def said(answer: Any) -> str:
    """Return what the body of an error says, to stand behind its status; or nothing."""
    for _ in range(3):
        if isinstance(answer, dict):
            answer = next((answer[k] for k in ("error", "detail", "message") if k in answer), None)
    return f": {one_line(answer)[:200]}" if isinstance(answer, str) and answer else ""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
