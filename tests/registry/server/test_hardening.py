"""Poison cards, other sites and slow clients: nobody else notices."""

import http.client
import socket
import time
from contextlib import ExitStack, suppress
from urllib.parse import urlparse

import pytest
from ftplug_registry.server import connections
from ftplug_registry.server.embedded import CONNECTIONS
from ftplug_registry.server.storage import metadata
from probes import HUGE, ODD, card, stored

SERVED = 1.0  # seconds within which anybody else is answered


def ask(server, method="GET", path="/api/models?full=true", body=None, headers=None):
    """Return status and seconds of a request on a connection of its own."""
    start = time.monotonic()
    link = http.client.HTTPConnection(urlparse(server.endpoint).netloc, timeout=10)
    try:
        link.request(method, path, body, headers or {})
        answer = link.getresponse()
        answer.read()
        return answer.status, time.monotonic() - start
    finally:
        link.close()


@pytest.mark.parametrize("kind", [*HUGE, *ODD])
def test_a_card_is_read_or_refused_at_once(kind):
    text = card((HUGE | ODD)[kind])
    start = time.thread_time()  # of the processor: others may keep this one waiting
    with suppress(ValueError):
        metadata.parse(text)
    assert isinstance(metadata.errors(text), list)
    assert time.thread_time() - start < SERVED


def test_a_time_stays_what_was_written():
    assert metadata.parse("---\na: 1:30\nb: 12\nc: 1.5\n---\n") == {"a": "1:30", "b": 12, "c": 1.5}


def test_what_is_stored_is_listed_or_left_out(server, api, root):
    for number, value in enumerate((HUGE | ODD).values()):
        api.create_repo(f"ann/odd-{number}")
        stored(root, f"ann/odd-{number}", card(value))
    api.create_repo("ann/sound")
    api.create_repo("ann/damaged")
    head = root / "models" / "ann" / "damaged" / ".git" / "refs" / "heads" / "main"
    head.write_text("0" * 39 + "1\n")
    assert ask(server)[0] == 200
    listed = {model.id for model in api.list_models(full=True, cardData=True)}
    assert len(listed) == len(HUGE | ODD) + 1
    assert "ann/sound" in listed


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, 200),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "text/plain;charset=UTF-8"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        (JSON | {"Origin": "https://evil.example"}, 403),
        (JSON | {"Origin": "null"}, 403),
        (JSON | {"Sec-Fetch-Site": "cross-site"}, 403),
        (JSON | {"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_cannot_post(server, headers, status):
    body = b'{"content": "---\\nlicense: mit\\n---\\n"}'
    assert ask(server, "POST", "/api/validate-yaml", body, headers)[0] == status


def test_its_own_origin_may_post(server):
    body = b'{"content": "---\\nlicense: mit\\n---\\n"}'
    own = JSON | {"Origin": server.endpoint}
    assert ask(server, "POST", "/api/validate-yaml", body, own)[0] == 200


HALF = {
    "head": b"GET /api/models HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ",
    "nothing": b"",
    "body": b"POST /api/validate-yaml HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99\r\n\r\n{",
}


@pytest.mark.parametrize("kind", HALF)
def test_half_sent_requests_keep_nobody_out(kind, server):
    address = ("127.0.0.1", urlparse(server.endpoint).port)
    with ExitStack() as open_ones:
        for _ in range(CONNECTIONS + 44):
            link = open_ones.enter_context(socket.create_connection(address, timeout=5))
            link.sendall(HALF[kind])
        for _ in range(5):
            status, seconds = ask(server)
            assert status == 200
            assert seconds < SERVED


def test_a_slow_head_is_closed_though_it_drips(server, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    address = ("127.0.0.1", urlparse(server.endpoint).port)
    start = time.monotonic()
    with socket.create_connection(address, timeout=5) as link, suppress(OSError):
        link.sendall(HALF["head"])
        while time.monotonic() - start < 5:
            link.sendall(b"a")
            time.sleep(0.05)
    assert time.monotonic() - start < 2


def test_a_body_that_goes_on_is_not_closed_for_a_slow_head(server, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    link = http.client.HTTPConnection(urlparse(server.endpoint).netloc, timeout=5)
    body = b'{"content": ""}'
    link.putrequest("POST", "/api/validate-yaml")
    link.putheader("Content-Length", str(len(body)))
    link.endheaders()
    for at in range(len(body)):
        link.send(body[at : at + 1])
        time.sleep(0.03)
    assert link.getresponse().status == 200
    link.close()
