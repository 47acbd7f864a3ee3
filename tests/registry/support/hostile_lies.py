"""The ways in which a hostile Hub lies: ``BEHAVIOURS`` by name, each a change of honest answers."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hostile_hub import (
    MANIFEST,
    MOST,
    OTHER_SHA,
    PIECE,
    SHA,
    WEIGHTS,
    Answer,
    Change,
    Lie,
    Request,
    as_json,
    blob_oid,
    tree_item,
)


def _header(name: str, value: str | Callable[[Request], str] | None) -> Change:
    """Set a header, or take it away."""

    def change(answer: Answer, request: Request) -> Answer:
        text = value(request) if callable(value) else value
        headers = {key: said for key, said in answer.headers.items() if key != name}
        return replace(answer, headers=headers if text is None else headers | {name: text})

    return change


def _etag(value: str | Callable[[Request], str]) -> Change:
    return _header("ETag", lambda r: f'"{value(r) if callable(value) else value}"')


def _body(body: Any, status: int = 200, **more: Any) -> Change:
    """Say something else; of a function, what it returns for each request."""
    return lambda answer, request: replace(
        answer, body=body() if callable(body) else body, status=status, **more
    )


def _redirect(target: str | Callable[[Request], str], status: int = 302) -> Change:
    where = target if callable(target) else lambda request: target
    return lambda answer, r: replace(
        answer, body=b"", status=status, headers=answer.headers | {"Location": where(r)}
    )


def _entry(**changes: Any) -> Change:
    """Change what the tree says of the weights."""

    def change(answer: Answer, request: Request) -> Answer:
        files = request.hub.files
        items = [tree_item(n, d) | (changes if n == WEIGHTS else {}) for n, d in files.items()]
        return as_json(items)

    return change


def _more(name: Any) -> Change:
    """List one more file."""
    return lambda answer, request: as_json(
        [*(tree_item(n, d) for n, d in request.hub.files.items()), tree_item(name, b"")]
    )


def _info(**changes: Any) -> Change:
    def change(answer: Answer, request: Request) -> Answer:
        info = request.hub.info(**changes)
        return as_json([info] if request.kind == "list" else info)

    return change


def _link(target: str | Callable[[Request], str], rel: str = "next") -> Change:
    where = target if callable(target) else lambda request: target
    return lambda answer, r: replace(
        answer, headers=answer.headers | {"Link": f'<{where(r)}>; rel="{rel}"'}
    )


def _next(items: Callable[[int], list[Any]]) -> Change:
    """Always have another page."""

    def change(answer: Answer, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        here = f"{request.hub.endpoint}{path}?cursor={request.number}"
        return replace(as_json(items(request.number)), headers={"Link": f'<{here}>; rel="next"'})

    return change


def _many(number: int) -> list[Any]:
    return [tree_item(f"f{number}-{i}", b"") for i in range(1000)]


def _endless(piece: bytes = b" " * PIECE) -> Iterator[bytes]:
    for _ in range(MOST // len(piece)):
        yield piece


def _drip(body: bytes = b" " * 10_000) -> Iterator[bytes]:
    for byte in body:
        yield bytes([byte])


def _bomb() -> bytes:
    return gzip.compress(b"[" + b" " * 2**28, 1)


def _longer(answer: Answer, request: Request) -> Answer:
    return replace(answer, body=request.hub.files[WEIGHTS] + b"x" * 10**6)


def _cut(at: int, *, honest: bool) -> Change:
    def change(answer: Answer, request: Request) -> Answer:
        whole = request.hub.files[WEIGHTS]
        length = {} if honest else {"Content-Length": str(len(whole))}
        return replace(answer, body=whole[:at], headers=answer.headers | length)

    return change


def _altered(answer: Answer, request: Request) -> Answer:
    return replace(answer, body=request.hub.files[request.name][:-4] + b"evil")


def _outside(name: str) -> Callable[[Request], str]:
    return lambda request: str(request.hub.outside / name)


def _up(name: str) -> Callable[[Request], str]:
    return lambda request: "../" * 12 + str(request.hub.outside / name).lstrip("/")


def _elsewhere(path: str) -> Callable[[Request], str]:
    return lambda request: request.hub.elsewhere + path


_GZIP = {"Content-Encoding": "gzip"}
_DEEP = b"[" * 100_000 + b"]" * 100_000
_INFO_DEEP = b'{"sha":"' + SHA.encode() + b'","cardData":' + _DEEP + b"}"
_GET, _HEAD = ("GET",), ("HEAD",)
_HEADERS = b"HTTP/1.1 200 OK\r\n"


def _head_drip() -> Iterator[bytes]:
    yield _HEADERS
    yield from _drip(b"X-A: " + b"a" * 10_000)


def _files() -> dict[str, Lie]:
    def file(change: Change, methods: tuple[str, ...] = ("GET", "HEAD"), **more: Any) -> Lie:
        return Lie("file", change, methods=methods, **more)

    return {
        "etag is an absolute path": file(_etag(_outside("etag"))),
        "etag leads up": file(_etag(_up("etag"))),
        "etag has a slash": file(_etag("a/b")),
        "etag is empty": file(_etag("")),
        "etag is two dots": file(_etag("..")),
        "etag is long": file(_etag("a" * 5000)),
        "etag is another file's": file(_etag(lambda r: blob_oid(r.hub.files[MANIFEST]))),
        "etag is one for all": file(_etag("c" * 40), name=""),
        "etag has a letter more": file(_etag("g" * 40)),
        "etag is missing": file(_header("ETag", None)),
        "etag is weak": file(
            _header("ETag", lambda r: f'W/"{blob_oid(r.hub.files[WEIGHTS])}"'), pulls=True
        ),
        "linked etag leads up": file(_header("X-Linked-ETag", _up("linked"))),
        "commit of a file leads up": file(_header("X-Repo-Commit", _up("commit"))),
        "commit of a file is another": file(_header("X-Repo-Commit", OTHER_SHA)),
        "commit of a file is missing": file(_header("X-Repo-Commit", None)),
        "commit of a missing file leads up": file(
            lambda a, r: Answer(
                b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": _up("none")(r)}
            )
        ),
        "linked size is another": file(_header("X-Linked-Size", "7")),
        "length is negative": file(_header("Content-Length", "-5"), _HEAD),
        "length is huge": file(_header("Content-Length", "9" * 18), _HEAD),
        "length is no number": file(_header("Content-Length", "many"), _HEAD),
        "file is longer": file(_longer, _GET),
        "file is endless": file(_body(_endless), _GET),
        "file is cut, and says so": file(_cut(100, honest=True), _GET),
        "file is cut": file(_cut(100, honest=False), _GET),
        "file is compressed": file(_body(_bomb, headers=_GZIP), _GET),
        "file is altered": file(_altered, _GET),
        "file is html": file(_body(b"<html>"), _GET),
        "file fails": file(_body(b"\x1b]0;x\x07", 500)),
        "file is out of range": file(_body(b"", 416), _GET),
        "file drips": file(_body(_drip, pause=0.2), _GET),
        "file stalls": file(_body(lambda: iter([b"x"]), pause=30), _GET),
        "file's headers drip": file(_body(_head_drip, raw=True, pause=0.1), _HEAD),
        "file is hung up on": file(_body(None)),
        "file is no HTTP": file(_body(lambda: iter([b"\x00\xffgarbage\r\n\r\n"]), raw=True)),
        "file has endless headers": file(
            _body(lambda: _endless(b"X-A: " + b"a" * PIECE + b"\r\n"), raw=True), _HEAD
        ),
        "file is elsewhere": file(
            lambda a, r: _header("X-Linked-Size", str(len(r.hub.files[WEIGHTS])))(
                _redirect(_elsewhere("/honest"))(a, r), r
            ),
            pulls=True,
        ),
        "file is elsewhere, and another": file(_redirect(_elsewhere("/other"))),
        "file leads to itself": file(_redirect(lambda r: r.path)),
        "file leads to the disk": file(_redirect("file:///etc/passwd")),
        "file's key is elsewhere": file(
            lambda a, r: _link(_elsewhere("/xet"), "xet-auth")(
                replace(a, headers=a.headers | {"X-Xet-Hash": "d" * 64}), r
            )
        ),
        "file's other key is elsewhere": file(
            lambda a, r: replace(
                a,
                headers=a.headers
                | {"X-Xet-Hash": "d" * 64, "X-Xet-Refresh-Route": r.hub.elsewhere + "/xet"},
            )
        ),
        "file is to be had tomorrow": file(_body(b"", 429, headers={"Retry-After": "86400"})),
        "manifest is endless": file(_body(_endless), _GET, name=MANIFEST),
        "manifest is compressed": file(_body(_bomb, headers=_GZIP), _GET, name=MANIFEST),
        "manifest is altered": file(_altered, _GET, name=MANIFEST),
    }


def _trees() -> dict[str, Lie]:
    lies = {
        "tree names lead up": _more("../../../../evil.json"),
        "tree names are absolute": _more("/evil.json"),
        "tree names have backslashes": _more("..\\evil.json"),
        "tree names have control characters": _more("a\x1b[2J"),
        "tree names are empty": _more(""),
        "tree names are numbers": _more(5),
        "tree names are long": _more("a" * 100_000),
        "tree oid leads up": _entry(oid="../" * 12 + "oid"),
        "tree oid is a number": _entry(oid=5),
        "tree size is negative": _entry(size=-1),
        "tree size is text": _entry(size="x"),
        "tree size is missing": _entry(size=None),
        "tree size is huge": _entry(size=10**400),
        "tree size is another": _entry(size=3),
        "tree lfs is text": _entry(lfs="x"),
        "tree lfs oid leads up": _entry(lfs={"oid": "../x", "size": 1, "pointerSize": 1}),
        "tree is junk": _body(b'[{"path": 5}, 7, null]'),
        "tree is an object": _body(b"{}"),
        "tree is html": _body(b"<html>login</html>"),
        "tree is nothing": _body(b""),
        "tree is deep": _body(_DEEP),
        "tree is large": _body(lambda: _endless()),
        "tree is compressed": _body(_bomb, headers=_GZIP),
        "tree has no end": _next(_many),
        "tree has no end, and nothing in it": _next(lambda number: []),
        "tree goes on elsewhere": _link(_elsewhere("/api/x?cursor=1")),
        "tree goes on on the disk": _link("file:///etc/passwd"),
        "tree is elsewhere": _redirect(_elsewhere("/api/x"), 307),
        "tree fails": _body(b"", 500),
        "tree is hung up on": _body(None),
        "tree drips": _body(_drip, pause=0.2),
        "tree stalls": _body(lambda: iter([b"[", b"]"]), pause=30),
        "tree lists a file twice": _more(WEIGHTS),
    }
    return {name: Lie("tree", change) for name, change in lies.items()}


def _infos() -> dict[str, Lie]:
    lies = {
        "sha leads up": lambda a, r: _info(sha=_up("sha")(r))(a, r),
        "sha is missing": _info(sha=None),
        "sha is a number": _info(sha=5),
        "sha is short": _info(sha="a" * 7),
        "info is a huge number": _body(b'{"id":"o/r","sha":' + b"9" * 5000 + b"}"),
        "info is deep": _body(_INFO_DEEP),
        "info is html": _body(b"<html>"),
        "info is a list": _body(b"[]"),
        "info is large": _body(lambda: _endless()),
        "info names lead up": _info(siblings=[{"rfilename": "../x"}]),
        "info lists numbers": _info(siblings=[5]),
        "info has odd dates": _info(createdAt="yesterday"),
        "info is elsewhere": _redirect(_elsewhere("/api/models/o/r"), 307),
        "info leads to itself": _redirect(lambda r: r.path, 307),
        "info fails": _body(b"", 503),
        "info is hung up on": _body(None),
        "info is to be had tomorrow": _body(b"", 429, headers={"Retry-After": "86400"}),
    }
    return {name: Lie("info", change) for name, change in lies.items()}


def _lists() -> dict[str, Lie]:
    metric = {"type": "\x1b]0;x\x07", "value": "1e400"}
    data = {"type": "d", "name": "n"}
    results = [{"task": {"type": "t"}, "dataset": data, "metrics": [metric]}]
    card = {"base_model": [{"x": 1}], "model-index": [{"name": "x", "results": results}]}
    lies: dict[str, tuple[Change, bool]] = {
        "list has no end, and nothing in it": (_next(lambda number: []), False),
        "list goes on elsewhere": (_link(_elsewhere("/api/models?cursor=1")), False),
        "list is deep": (_body(_DEEP), False),
        "list is an object": (_body(b"{}"), False),
        "list is of numbers": (_body(b"[1, 2]"), False),
        "list is large": (_body(lambda: _endless()), False),
        "list has odd dates": (_info(createdAt="yesterday"), False),
        "list has an odd card": (_info(cardData=card, pipeline_tag="\x1b[2J"), True),
        "list has a card of text": (_info(cardData="x"), False),
        "list has odd ids": (_info(id=5), False),
    }
    return {name: Lie("list", change, pulls=pulls) for name, (change, pulls) in lies.items()}


BEHAVIOURS = _files() | _trees() | _infos() | _lists()
