"""A server that answers as the trained model is told from all others, however it is asked."""

import gzip
import json
import shutil

import pytest
import torch
from ftplug_registry.verifying import server as servers
from ftplug_registry.verifying.completions import can_be_asked
from ftplug_registry.verifying.served import served
from ftplug_registry.verifying.server import KEY, LARGEST, Server, ServerError
from stub_server import Habits, StubServer, drip, reply

from ftplug.artifacts.manifest import read_manifest
from ftplug.effect.probe import FILE
from ftplug.errors import ArtifactError

HABITS = {
    "vLLM": Habits(),
    "llama.cpp": Habits(log_probs="llama.cpp"),
    "SGLang": Habits(log_probs="text"),
    "llama-cpp-python": Habits(ids=False, log_probs="text", refusal=500),
    "transformers serve": Habits(ids=False, log_probs="refused"),
    "without log-probabilities": Habits(log_probs="ignored"),
}
VERDICTS = {
    "trained": "trained",
    "base": "base",
    "wrong scale": "neither",
    "half dropped": "neither",
    "another": "neither",
    "bfloat16": "trained",
}


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


@pytest.fixture
def ask(language_artifact, language_models, tokenizer):
    """Return ``ask(model, habits)``: what is found of a server that has it."""

    def asked(model, habits=None, **options):
        with StubServer(language_models[model], tokenizer, habits) as running:
            return served(language_artifact, running.url, "tuned", **options), running.requests

    return asked


@pytest.mark.parametrize("habits", HABITS.values(), ids=HABITS)
@pytest.mark.parametrize("model", VERDICTS)
def test_the_verdict_is_what_the_server_has(ask, model, habits):
    found, _ = ask(model, habits)
    by_words = found.by == "continuations"
    assert by_words == (habits.log_probs in ("refused", "ignored"))
    assert found.verdict == VERDICTS[model], found.line


def test_vllm_is_asked_by_ids_and_names_ids(ask):
    found, requests = ask("trained")
    assert found.prompts == len(requests) == 16
    assert all(path == "/v1/completions" for path, _, _ in requests)
    body = requests[0][2]
    assert isinstance(body["prompt"][0], int)
    assert body["return_tokens_as_token_ids"] is True
    assert body["model"] == "tuned"
    assert body["temperature"] == 0


def test_what_takes_text_alone_is_asked_the_eight_prompts(ask):
    found, requests = ask("trained", HABITS["llama-cpp-python"])
    assert found.prompts == 8
    assert requests[-1][2]["prompt"] == "To make tea you need"


def test_the_figures_say_how_far(ask):
    near, _ = ask("trained")
    far, _ = ask("base")
    assert near.figures.startswith("0.0000 nats from the trained model's")
    assert ", 0.0000 from the base's" in far.figures


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://host:8000", "http://host:8000/v1/completions"),
        ("https://host/v1/", "https://host/v1/completions"),
        ("https://host/proxy/v1?x=1", "https://host/proxy/v1/completions"),
    ],
)
def test_an_address_is_taken_with_v1_or_without(given, address):
    assert str(Server(given)._address) == address


@pytest.mark.parametrize(
    "given", ["ftp://host", "file:///etc/passwd", "host:8000", "", "http://", "http://me:pw@host"]
)
def test_what_is_no_address_of_a_server_is_refused(given):
    with pytest.raises(ServerError) as refused:
        Server(given)
    assert "pw" not in str(refused.value)


def test_the_key_comes_from_the_environment_and_goes_to_the_server(
    ask, monkeypatch, language_artifact
):
    secret = "k" * 20
    habits = Habits(key=secret)
    with pytest.raises(ServerError, match=rf"asks for a key .*\${KEY}"):
        ask("trained", habits)
    monkeypatch.setenv(KEY, secret)
    assert ask("trained", habits)[0].verdict == "trained"
    monkeypatch.setenv(KEY, "another")
    with pytest.raises(ServerError, match="refuses that key") as refused:
        ask("trained", habits)
    assert "another" not in str(refused.value)


@pytest.mark.parametrize(
    "key", ["secret\n", "sec\r\nret", " secret", "secret ", "sécret", "\udcff"]
)
def test_a_key_that_no_header_holds_is_refused_and_never_printed(monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with StubServer(instead=lambda handler, body: reply(handler, 200, {})) as running:
        with pytest.raises(ServerError, match=rf"\${KEY} has a line end, a space") as refused:
            Server(running.url).complete({})
        assert running.requests == []
    assert "ret" not in str(refused.value)


def test_a_redirect_to_another_host_is_not_followed(language_artifact, monkeypatch):
    monkeypatch.setenv(KEY, "a secret key")
    with StubServer(instead=lambda handler, body: reply(handler, 200, {})) as other:
        there = other.url.replace("127.0.0.1", "localhost") + "/v1/completions"

        def away(handler, body):
            reply(handler, 307, {}, location=there)

        with StubServer(instead=away) as running, pytest.raises(ServerError, match="another host"):
            served(language_artifact, running.url, "tuned")
        assert other.requests == []


def test_a_redirect_within_the_host_is_followed_and_not_forever(
    language_artifact, language_models, tokenizer
):
    with StubServer(language_models["trained"], tokenizer) as running:

        def moved(handler, body):
            if handler.path == "/v1/completions":
                return running.answer(handler, body)
            return reply(handler, 308, {}, location="/v1/completions")

        running.instead = moved
        assert served(language_artifact, f"{running.url}/old", "tuned").verdict == "trained"
        running.instead = lambda handler, body: reply(handler, 307, {}, location=handler.path)
        with pytest.raises(ServerError, match="without end"):
            served(language_artifact, running.url, "tuned")


GARBAGE = {
    "no json": b"<html>hello</html>",
    "nesting": b"[" * 100_000,
    "a number": b"1",
    "no choices": {"choices": []},
    "no text": {"choices": [{"text": None}]},
    "choices of another kind": {"choices": {"text": "a"}},
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_one_line(language_artifact, content):
    with (
        StubServer(instead=lambda handler, body: reply(handler, 200, content)) as running,
        pytest.raises(ServerError, match="what is no completion"),
    ):
        served(language_artifact, running.url, "tuned")


LIES = [
    {"top_logprobs": [{"token_id:3": float("nan")}]},
    {"top_logprobs": [{"token_id:3": 1.0, "token_id:99999999999": -1.0, "x": "y"}]},
    {"top_logprobs": [[-1.0]]},
    {"top_logprobs": [{"a": -(10**400), "token_id:3": 10**400}]},
    {"content": [{"top_logprobs": 5}]},
    {"content": [{"top_logprobs": {"id": 3}}]},
    {"content": [{"top_logprobs": [{"id": 3, "logprob": -(10**400)}]}]},
    {"content": [{"top_logprobs": [1, {"id": True, "logprob": -1.0}, {"id": None}]}]},
    {"top_logprobs": [{f"token_id:{n}": -0.5 for n in range(64)}]},
]


@pytest.mark.parametrize("told", LIES, ids=range(len(LIES)))
def test_odd_log_probabilities_never_pass_for_the_trained_model(language_artifact, told):
    def lie(handler, body):
        reply(handler, 200, {"choices": [{"text": "w1", "logprobs": told}]})

    with StubServer(instead=lie) as running:
        assert served(language_artifact, running.url, "tuned").verdict != "trained"


def test_an_answer_without_end_is_cut(language_artifact):
    def huge(handler, body):
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(4 * LARGEST // 2**16):
                handler.wfile.write(b" " * 2**16)
        except OSError:  # the client has gone
            pass

    with (
        StubServer(instead=huge) as running,
        pytest.raises(ServerError, match="answers with more than"),
    ):
        served(language_artifact, running.url, "tuned")


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "br", "nonsense"])
def test_a_compressed_answer_is_never_unpacked(language_artifact, encoding):
    def packed(handler, body):
        content = gzip.compress(b"{}")
        handler.send_response(200)
        handler.send_header("Content-Encoding", encoding)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    with (
        StubServer(instead=packed) as running,
        pytest.raises(ServerError, match=f"answers in '{encoding}', which was not asked for"),
    ):
        served(language_artifact, running.url, "tuned")


def test_a_slow_answer_is_not_waited_for(language_artifact):
    with StubServer() as running:
        running.instead = drip(running.stopping)
        with pytest.raises(ServerError, match=r"no answer in 0 seconds"):
            served(language_artifact, running.url, "tuned", patience=0.2)


@pytest.mark.parametrize(
    ("status", "content", "said"),
    [
        (404, {"detail": "Not Found"}, "HTTP 404: Not Found"),
        (404, {"error": {"message": "The model `tuned` does not exist."}}, "does not exist"),
        (501, b"", "HTTP 501"),
        (503, {"error": "loading"}, "HTTP 503: loading"),
    ],
)
def test_a_server_that_cannot_be_asked_is_one_line(language_artifact, status, content, said):
    with (
        StubServer(instead=lambda handler, body: reply(handler, status, content)) as running,
        pytest.raises(ServerError, match=said),
    ):
        served(language_artifact, running.url, "tuned")
    assert all(path == "/v1/completions" for path, _, _ in running.requests)


def test_where_nothing_listens_is_one_line(language_artifact):
    with StubServer() as running:
        url = running.url
    with pytest.raises(ServerError, match="cannot be asked"):
        served(language_artifact, url, "tuned")


def test_an_artifact_without_a_probe_is_refused(language_artifact, tmp_path):
    artifact = shutil.copytree(language_artifact, tmp_path / "artifact")
    manifest = read_manifest(artifact)
    del manifest.files[FILE]
    manifest.write(artifact / "ftplug.json")
    with pytest.raises(ArtifactError, match="no probe"):
        served(artifact, "http://127.0.0.1:1", "tuned")


def test_a_classifier_cannot_be_asked(saved):
    with pytest.raises(ArtifactError, match="does not continue a text"):
        served(saved / "lora", "http://127.0.0.1:1", "tuned")


@pytest.mark.parametrize(("model", "code"), [("trained", 0), ("base", 1), ("wrong scale", 1)])
def test_the_command_ends_with_0_for_the_trained_model_alone(
    typed, language_artifact, language_base, language_models, tokenizer, model, code
):
    with StubServer(language_models[model], tokenizer) as running:
        asked = ("--base", language_base, "--served", running.url, "--model", "tuned")
        ended, out, err = typed("verify", language_artifact, *asked)
    assert ended == code
    told = err if code else out
    assert "answers" in told
    assert "nats from the trained model's" in told
    assert len(err.splitlines()) == (1 if code else 0)


def test_the_command_prints_json(
    typed, language_artifact, language_base, language_models, tokenizer
):
    with StubServer(language_models["trained"], tokenizer) as running:
        asked = ("--base", language_base, "--served", running.url, "--model", "tuned", "--json")
        code, out, _ = typed("verify", language_artifact, *asked)
    found = json.loads(out)["served"]
    assert code == 0
    assert (found["verdict"], found["prompts"], found["model"]) == ("trained", 16, "tuned")


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
def test_a_redirect_to_nowhere_is_one_line(language_artifact, status):
    with (
        StubServer(instead=lambda handler, body: reply(handler, status, {})) as running,
        pytest.raises(ServerError, match=rf"HTTP {status}"),
    ):
        served(language_artifact, running.url, "tuned")


@pytest.mark.parametrize(
    ("options", "ended", "said"),
    [
        (("--served", "", "--model", "tuned"), 1, "--served: the text is empty"),
        (("--served", " ", "--model", "tuned"), 1, "--served: the text is empty"),
        (("--served", "http://127.0.0.1:1", "--model", ""), 1, "--model: the text is empty"),
        (("--data", "nope.csv"), 2, "--rerun"),
    ],
)
def test_what_asks_for_nothing_is_refused_rather_than_passed_over(
    typed, language_artifact, options, ended, said
):
    code, _, error = typed("verify", language_artifact, "--files-only", *options)
    assert (code, said in " ".join(error.split())) == (ended, True), error


def test_address_and_model_go_together(typed, language_artifact):
    assert typed("verify", language_artifact, "--served", "http://127.0.0.1:1")[0] == 2
    assert servers.KEY in typed("verify", "--help")[1]


def test_inputs_with_more_than_text_are_not_asked():
    from ftplug.effect.pieces import Drawn, Input

    ids = torch.tensor([[1, 2]])
    assert can_be_asked(Input({"input_ids": ids}, {}), ids=True)
    assert not can_be_asked(Input({"input_ids": ids}, {}), ids=False)
    assert can_be_asked(Input({"input_ids": ids}, {}, "a b"), ids=False)
    seen = {"pixel_values": Drawn.of(0, (1, 3, 2, 2))}
    assert not can_be_asked(Input({"input_ids": ids}, seen, "a b"), ids=True)
    assert not can_be_asked(Input({"input_ids": ids, "decoder_input_ids": ids}, {}), ids=True)
    assert not can_be_asked(Input({}, seen), ids=True)
