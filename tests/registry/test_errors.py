"""Whatever a Hub answers, the registry says it in one line that names the cure."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

import pytest
from ftplug_registry import Hub, pull, push, search, verify
from huggingface_hub import constants

from ftplug import RegistryError

CANARY = "hf_" + "CanaryTokenThatMustNeverShow" + "7654321"
# status, headers: what the answer must say
ANSWERS = {
    (401, "Invalid credentials in Authorization header"): "hf auth login, or set HF_TOKEN",
    (401, "Invalid username or password."): "hf auth login, or set HF_TOKEN",
    (403, "Your token is read-only."): "write access to this namespace: Your token is read-only.",
    (404, "RepoNotFound"): "no such repository",
    (404, "GatedRepo"): "accept its conditions at",
    (404, "EntryNotFound"): "lacks a file",
    (400, "odd"): "refused what was sent",
    (409, "it is there"): "conflicts with what is there (409): it is there",
    (412, "stale"): "the branch moved meanwhile (412): run the same command again",
    (413, ""): "too large for this server",
    (429, ""): "wait a minute",
    (500, "boom"): "the server failed (500): run the same command again: boom",
    (503, f"echo {CANARY}"): "the server failed (503)",
    (418, "teapot"): "the server answered 418: teapot",
}


class Answering(BaseHTTPRequestHandler):
    """Answers every request alike."""

    status, said = 500, ""

    def do_GET(self):
        self.send_response(self.status)
        kind = "X-Error-Code" if self.said.isalpha() and "N" in self.said else "X-Error-Message"
        self.send_header("X-Error-Code" if self.said == "GatedRepo" else kind, self.said)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_HEAD = do_PUT = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def answering(monkeypatch, tmp_path):
    """Return ``endpoint(status, said)``: a server that gives one answer, and no waits between."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", CANARY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def endpoint(status, said):
        monkeypatch.setattr(Answering, "status", status)
        monkeypatch.setattr(Answering, "said", said)
        return Hub(f"http://127.0.0.1:{server.server_port}", CANARY, tmp_path / "cache")

    yield endpoint
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_an_answer_is_said_in_one_line(answer, answering, saved):
    hub = answering(*answer)
    actions = [lambda: search(hub=hub), lambda: push(saved / "lora", "alice/x", hub=hub)]
    for action in actions[answer[0] in (401, 404) :]:  # a list has no repository to be missing
        with pytest.raises(RegistryError) as refused:
            action()
        assert ANSWERS[answer] in str(refused.value)
        assert "\n" not in str(refused.value)
        assert CANARY not in str(refused.value)


@pytest.mark.parametrize("answer", [(401, "Invalid username or password."), (404, "RepoNotFound")])
def test_pull_and_verify_say_it_too(answer, answering):
    hub = answering(*answer)
    for action in (pull, verify):
        with pytest.raises(RegistryError, match="hf auth login"):
            action("alice/x", hub=hub)


def test_no_network_says_so(monkeypatch, saved):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # a port that nobody listens on
        nowhere = Hub(f"http://127.0.0.1:{closed.getsockname()[1]}", CANARY)
        actions = [
            lambda: push(saved / "lora", "alice/x", hub=nowhere),
            lambda: search(hub=nowhere),
        ]
        for action in actions:
            with pytest.raises(RegistryError, match="cannot be reached") as refused:
                action()
            assert "\n" not in str(refused.value)


GARBAGE = [b"<html>log in first</html>", b"{}", b"[]", b"null", b"\x00\xff", b'{"id": 1}']


@pytest.mark.parametrize("body", GARBAGE)
def test_a_server_that_is_no_hub_is_said_to_be_none(body, answering, saved, monkeypatch):
    hub = answering(200, "")

    def answer(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    monkeypatch.setattr(Answering, "do_GET", answer)
    monkeypatch.setattr(Answering, "do_POST", answer)
    for action in (
        lambda: pull("alice/x", hub=hub),
        lambda: push(saved / "lora", "alice/x", hub=hub),
    ):
        with pytest.raises(RegistryError) as refused:
            action()
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://127.0.0.1:99999", "nonsense"])
def test_an_endpoint_that_is_none(endpoint, saved, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    for action in (
        lambda: search(hub=Hub(endpoint)),
        lambda: push(saved / "lora", "alice/x", hub=Hub(endpoint)),
    ):
        with pytest.raises(RegistryError, match="HF_ENDPOINT"):
            action()


def test_offline_mode_says_so(saved):
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(RegistryError, match="unset HF_HUB_OFFLINE"):
        push(saved / "lora", "alice/x")
    with pytest.raises(RegistryError, match="unset HF_HUB_OFFLINE"):
        search()


def test_the_right_of_the_token_is_the_servers_word(client, server, artifact, repo_id):
    with pytest.raises(RegistryError, match="write access to this namespace"):
        push(artifact, repo_id, hub=Hub(server.endpoint, server.token("bob")))
    with pytest.raises(RegistryError, match="hf auth login"):
        push(artifact, repo_id, hub=Hub(server.endpoint, False))
    with pytest.raises(RegistryError, match="hf auth login"):
        push(artifact, repo_id, hub=Hub(server.endpoint, CANARY))


def test_a_private_repository_is_hidden_from_others(client, server, hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub, private=True)
    for token in (server.token("bob"), False):
        stranger = Hub(server.endpoint, token)
        with pytest.raises(RegistryError, match="no such repository"):
            pull(repo_id, hub=Hub(server.endpoint, token, artifact.parent / "empty"))
        assert repo_id not in {one.repo_id for one in search(hub=stranger, limit=100).results}


def test_a_revision_that_is_not_there(hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    with pytest.raises(RegistryError, match="no such branch, tag or commit"):
        pull(repo_id, "v9", hub=hub)


def test_a_list_that_cannot_be_asked_for_says_so(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: sleep(0.3))
    with pytest.raises(RegistryError) as refused:
        search(hub=Hub("http://127.0.0.1:9", token="x"))
    assert "http://127.0.0.1:9 cannot be reached" in str(refused.value)
    assert "check the network and HF_ENDPOINT" in str(refused.value)
    assert "sends less" not in str(refused.value)
