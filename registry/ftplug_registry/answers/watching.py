"""A watcher of one client's requests: what leaves, and what and how much may come back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ftplug.artifacts.manifest import LARGEST
from ftplug.errors import RegistryError, one_line
from ftplug_registry.answers import names
from ftplug_registry.answers.addresses import Addresses, Place, host
from ftplug_registry.answers.names import Listed, OddAnswerError
from ftplug_registry.answers.pace import PACE, Pace
from ftplug_registry.client import read_through

LARGEST_JSON = 8 * 2**20  # bytes of one answer: in memory it takes some ten times as many
MOST_JSON = 64 * 2**20  # bytes of all JSON of one action
LARGEST_REFUSAL = 2**20  # bytes of the body of an error or a redirect
MOST_PAGES = 100  # of all lists of one action
MOST_HOPS = 20  # redirects of one file: older clients follow without end
LONGEST_WAIT = 300  # seconds that a server may ask for before the next try
SLACK = 2**20  # bytes that come more than once where a download is taken up again
_COMMITS = 64  # whose listings are kept

_TREE = re.compile(r"/api/models/[^/]+/[^/]+/tree/([^/]+)")
_INFO = re.compile(r"/api/models/[^/]+/[^/]+(?:/revision/(.+))?")
_COMMITS_OF = re.compile(r"/api/models/[^/]+/[^/]+/commits/.+")
_REFS = re.compile(r"/api/models/[^/]+/[^/]+/refs")
_LIST = re.compile(r"/api/models/?")
_PLACE = "ftplug.place"  # commit and name of the file among a request's extensions


class Watching:
    """The bounds on what a Hub answers within one action; raises :class:`RegistryError`.

    Nothing of an answer reaches the client before it is checked: file names, commits and digests
    (the client makes paths of them), sizes, redirects, next pages. A token goes to the Hub itself
    and to huggingface.co alone. Bodies come uncompressed, at most as many bytes as the commit's
    listing says, and as fast as :class:`Pace` demands.
    """

    def __init__(self, endpoint: str) -> None:
        self._lock = threading.Lock()
        self._listed: dict[str, dict[str, Listed]] = {}  # by commit, then by name
        self._addresses, self._pace = Addresses(endpoint), Pace(endpoint)
        self._forget()

    def _forget(self) -> None:
        self._pages = self._json = 0
        self._waited = 0.0  # seconds
        self._received: dict[Place, int] = {}  # bytes of files that are not complete
        self._hops: dict[Place, int] = {}  # redirects of a file
        self._addresses.forget()
        self._pace.forget()

    @contextmanager
    def action(self) -> Iterator[None]:
        """Count anew, as far as the bounds are those of one action."""
        self._forget()
        try:
            yield
        finally:
            self._pace.forget()

    def request(self, request: Any) -> None:
        """Refuse a request that takes the token elsewhere, or is tried for too long."""
        url = request.url
        if self._addresses.is_plain(url):
            raise self._refused(f"leads to {host(url)} without https (HF_ENDPOINT?)")
        if "authorization" in request.headers and not self._addresses.is_trusted(url):
            raise self._refused(f"leads to {host(url)}, where the token must not go")
        request.headers["Accept-Encoding"] = "identity"
        if _PLACE not in request.extensions and (place := self._addresses.place(url)):
            request.extensions[_PLACE] = place
        self._pace.asked(request)

    def response(self, response: Any) -> None:
        """Refuse an answer that is none of a Hub; bound the body of any other."""
        self._pace.answered(response)
        try:
            self._check_headers(response)
            if response.request.method == "HEAD":
                self._check_metadata(response)
                return
            self._bound_body(response)
            if self._is_api(response) and response.is_success:
                self._check_json(response)
        except OddAnswerError as error:
            raise self._refused(one_line(error)) from None

    def _check_headers(self, response: Any) -> None:
        headers, place = response.headers, response.request.extensions.get(_PLACE)
        if "x-repo-commit" in headers and self._addresses.is_trusted(response.request.url):
            sha = names.check_sha(headers["x-repo-commit"])
            if place and sha != place[0]:
                raise OddAnswerError(f"answers with commit {sha} instead of {place[0]}")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise OddAnswerError("sends compressed what was asked for as it is")
        for wait in (headers.get("retry-after", ""), *_resets(headers)):
            if wait.isdigit() and (len(wait) > 6 or int(wait) > LONGEST_WAIT):
                raise OddAnswerError(f"asks to wait for {wait[:12]} seconds: try again then")
        self._check_links(response)
        if response.has_redirect_location:
            self._check_redirect(response, place)

    def _check_links(self, response: Any) -> None:
        """Check where a next page is, and where the key to Xet's storage."""
        links = response.links
        following = [links[name].get("url", "") for name in ("next", "xet-auth") if name in links]
        if "next" in links:
            with self._lock:
                self._pages += 1
            if self._pages > MOST_PAGES:
                raise OddAnswerError(f"has more than {MOST_PAGES} pages of a list")
        for address in (*following, response.headers.get("x-xet-refresh-route", "")):
            target = response.url.join(address)
            if address and not self._addresses.is_trusted(target):
                raise OddAnswerError(f"leads to {host(target)}, where the token must not go")
        if "x-xet-hash" in response.headers:
            names.check_digest(response.headers["x-xet-hash"])

    def _check_redirect(self, response: Any, place: Place | None) -> None:
        target = response.url.join(response.headers["location"])
        if self._addresses.is_plain(target):
            raise OddAnswerError(f"leads to {host(target)} by {ascii(target.scheme)[:20]}")
        if place is not None:
            self._hops[place] = hops = self._hops.get(place, 0) + 1
            if hops > MOST_HOPS:
                raise OddAnswerError(f"leads on and on for {place[1]}")
            self._addresses.note(target, place)
        elif not self._addresses.is_trusted(target):  # files alone lie elsewhere
            raise OddAnswerError(f"leads to {host(target)}, which is another server")

    def _check_metadata(self, response: Any) -> None:
        """Check what the client makes paths of, against the listing."""
        if response.status_code >= 400:
            return
        headers, place = response.headers, response.request.extensions.get(_PLACE)
        listed = self._listing(place)
        if etag := headers.get("x-linked-etag") or headers.get("etag"):
            digest = names.check_digest(etag.removeprefix("W/").strip('"'))
            if listed and digest not in listed.digests:
                raise OddAnswerError(f"gives {place[1]} another digest than its listing does")
        size = headers.get("x-linked-size")
        if size is None and not response.has_redirect_location:
            size = headers.get("content-length")
        if listed and size is not None and size != str(listed.size):
            said = f"{size[:20]!a} bytes, but lists {listed.size}"
            raise OddAnswerError(f"says that {place[1]} has {said}")

    def _bound_body(self, response: Any) -> None:
        place = response.request.extensions.get(_PLACE)
        if not response.is_success:
            most, place = LARGEST_REFUSAL, None
        elif self._is_api(response):
            most = LARGEST_JSON
        else:
            listed = self._listing(place)
            most = listed.size if listed else LARGEST
        declared = response.headers.get("content-length", "0")
        if declared.isdigit() and (len(declared) > 18 or int(declared) > most):
            raise OddAnswerError(f"sends {declared[:20]} bytes of {_what(response)}, not {most}")
        read_through(response, lambda pieces: self._read(pieces, response, most, place))

    def _read(
        self, pieces: Iterator[bytes], response: Any, most: int, place: Place | None
    ) -> Iterator[bytes]:
        """Yield a body's pieces; what is repeated by another try counts together."""
        received, mark, waited = 0, 0, 0.0
        before = self._received.get(place, 0) if place else 0
        while True:
            start = time.monotonic()
            piece = next(pieces, None)
            waited += time.monotonic() - start
            if piece is None:
                break
            received += len(piece)
            if received > most or before + received > most + SLACK:
                raise self._refused(f"sends more than the {most} bytes of {_what(response)}")
            if received - mark >= PACE:
                mark, waited = received, 0.0
                self._pace.moved(response.request)
            elif waited > self._pace.patience:
                raise self._pace.stalled(response.request)
            if place:
                self._received[place] = before + received
            yield piece
        if place:
            self._received.pop(place, None)
        self._pace.done(response.request)

    def _check_json(self, response: Any) -> None:
        """Read a JSON answer here, within bounds; the client finds it read."""
        start = time.monotonic()
        content = response.read()
        with self._lock:
            self._json += len(content)
            self._waited += time.monotonic() - start
        if self._json > MOST_JSON or self._waited > 3 * self._pace.patience:
            said = f"{self._json} bytes in {self._waited:.0f} seconds"
            raise OddAnswerError(f"goes on and on, {said}")
        path = self._addresses.path(response.request.url)
        if response.request.method != "GET":
            if "/commit/" in path:
                names.check_commit(names.read_json(content))
            return
        answer = names.read_json(content)
        if tree := _TREE.match(path):
            self._note(tree[1], names.tree_in(answer))
        elif info := _INFO.fullmatch(path):
            names.check_info(answer, info[1])
        elif _LIST.fullmatch(path):
            names.check_list(answer)
        elif _COMMITS_OF.fullmatch(path):
            names.check_commits(answer)
        elif _REFS.fullmatch(path):
            names.check_refs(answer)

    def _note(self, revision: str, files: Iterator[tuple[str, Listed]]) -> None:
        with self._lock:
            listed = self._listed.setdefault(revision, {})
            for name, file in files:
                if listed.setdefault(name, file) != file:
                    raise OddAnswerError(f"lists {name} otherwise than before")
            if len(listed) > names.MOST_FILES:
                raise OddAnswerError(f"lists more than {names.MOST_FILES} files")
            while len(self._listed) > _COMMITS:
                del self._listed[next(iter(self._listed))]

    def _listing(self, place: Place | None) -> Listed | None:
        return self._listed.get(place[0], {}).get(place[1]) if place else None

    def _is_api(self, response: Any) -> bool:
        request = response.request
        is_file = _PLACE in request.extensions
        return not is_file and self._addresses.path(request.url).startswith("/api/")

    def _refused(self, what: str) -> RegistryError:
        return RegistryError(f"{self._addresses.endpoint} {what}: refused, no Hub answers so")


def _resets(headers: Any) -> list[str]:
    """Return the seconds of rate limits, for which the client waits too."""
    return re.findall(r"t=(\d+)", headers.get("ratelimit", "")[:200].replace(" ", ""))


def _what(response: Any) -> str:
    place = response.request.extensions.get(_PLACE)
    text = ascii(place[1] if place else response.request.url.path)[1:-1]
    return text if len(text) <= 100 else text[:100] + "…"
