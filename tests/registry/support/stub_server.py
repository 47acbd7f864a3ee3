"""A small OpenAI-compatible server around a tiny model, and the ways in which servers differ.

with StubServer(model, tokenizer) as server:
    served(artifact, server.url, "tuned")
"""

import json
import threading
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch


@dataclass
class Habits:
    """What a server takes and gives; by default it does as vLLM.

    ``log_probs``: ``ids`` (tokens named by their ids where that is asked for), ``text``,
    ``llama.cpp``, ``refused`` or ``ignored``.
    """

    ids: bool = True
    text: bool = True
    log_probs: str = "ids"
    key: str | None = None
    refusal: int = 400  # the status of a prompt that is not taken


class StubServer(AbstractContextManager):
    """Serves ``model``; ``instead`` answers requests in its place, given handler and body."""

    def __init__(self, model=None, tokenizer=None, habits=None, instead=None):
        self.model, self.tokenizer = model, tokenizer
        self.habits, self.instead = habits or Habits(), instead
        self.requests, self.stopping = [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length))
                outer.requests.append((self.path, dict(self.headers), body))
                (outer.instead or outer.answer)(self, body)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, handler, body):
        habits, prompt = self.habits, body["prompt"]
        if handler.path != "/v1/completions":
            return reply(handler, 404, {"detail": "Not Found"})
        if habits.key and handler.headers.get("authorization") != f"Bearer {habits.key}":
            return reply(handler, 401, {"error": {"message": "who are you?"}})
        if not (habits.ids if isinstance(prompt, list) else habits.text):
            return reply(handler, habits.refusal, {"error": {"message": "not such a prompt"}})
        if "logprobs" in body and habits.log_probs == "refused":
            return reply(handler, 422, {"detail": "Unexpected fields in the request: logprobs"})
        ids = prompt if isinstance(prompt, list) else self.tokenizer(prompt)["input_ids"]
        choice = {"index": 0, "text": self._continued(ids, body["max_tokens"]), "logprobs": None}
        if "logprobs" in body and habits.log_probs != "ignored":
            choice["logprobs"] = self._log_probs(ids, body)
        return reply(handler, 200, {"choices": [choice]})

    def _continued(self, ids, count):
        with torch.no_grad():
            row = torch.tensor([ids])
            new = self.model.generate(
                row, attention_mask=torch.ones_like(row), max_new_tokens=count, do_sample=False
            )
        return self.tokenizer.decode(new[0, len(ids) :], skip_special_tokens=True)

    def _log_probs(self, ids, body):
        with torch.no_grad():
            row = self.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
        top = row.topk(min(body["logprobs"], len(row)))
        pairs = list(zip(top.indices.tolist(), top.values.tolist(), strict=True))
        if self.habits.log_probs == "llama.cpp":
            listed = [{"id": token, "token": "?", "logprob": value} for token, value in pairs]
            return {"content": [{"top_logprobs": listed}]}
        named = self.habits.log_probs == "ids" and body.get("return_tokens_as_token_ids")
        return {
            "top_logprobs": [
                {f"token_id:{t}" if named else self.tokenizer.decode([t]): v for t, v in pairs}
            ]
        }


def reply(handler, status, content, **headers):
    """Send JSON, or bytes as they are."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in {"content-length": str(len(data)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


def drip(stopping):
    """Return what sends headers byte for byte until the server is stopped."""

    def send(handler, body):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not stopping.is_set():
            try:
                handler.wfile.write(b"x-slow: a\r\n")
                handler.wfile.flush()
            except OSError:
                return
            time.sleep(0.02)

    return send
