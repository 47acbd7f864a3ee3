"""What comes next after a prompt, as servers say it: log-probabilities, or a greedy continuation.

``/v1/completions`` is asked, which takes a prompt as it is; a chat template would change it. vLLM
takes token ids and names them in its answers, llama.cpp's server too; SGLang and llama-cpp-python
name tokens by their text; ``transformers serve`` takes text and gives no log-probabilities.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftplug.effect.answers import NEW_TOKENS
from ftplug.effect.pieces import Input
from ftplug_registry.verifying.server import Server, ServerError, said

TOP = 20  # log-probabilities of one place: what vLLM gives at most unless it is told otherwise

Token = int | str  # an id, or the text of one


_OF_TEXT = {"input_ids", "attention_mask", "token_type_ids"}


def can_be_asked(given: Input, *, ids: bool) -> bool:
    """Whether an input is a prompt that a completion goes on from: token ids, and nothing else."""
    alone = "input_ids" in given.stored and not given.drawn and given.stored.keys() <= _OF_TEXT
    return alone and (ids or bool(given.text))


@dataclass(frozen=True)
class Form:
    """A way to ask: ids or text, with log-probabilities of named tokens, of any, or without."""

    ids: bool
    log_probs: bool
    named: bool = False

    def body(self, model: str, given: Input) -> dict[str, Any] | None:
        """Return the request, or None for an input that cannot be asked so."""
        prompt = given.stored["input_ids"][0].tolist() if self.ids else given.text
        if prompt is None:
            return None
        request = {"model": model, "prompt": prompt, "temperature": 0}
        if not self.log_probs:
            return request | {"max_tokens": NEW_TOKENS}
        named = {"return_tokens_as_token_ids": True} if self.named else {}
        return request | {"max_tokens": 1, "logprobs": TOP} | named


# From the most telling down. What a server does not know it refuses, or leaves out of its answer.
FORMS = (
    Form(ids=True, log_probs=True, named=True),
    Form(ids=True, log_probs=True),
    Form(ids=False, log_probs=True),
    Form(ids=True, log_probs=False),
    Form(ids=False, log_probs=False),
)


@dataclass(frozen=True)
class Answer:
    """What a server says of one prompt: ``text`` that follows, ``log_probs`` of the next token."""

    text: str
    log_probs: Mapping[Token, float]


def ask(server: Server, model: str, given: Input, form: Form) -> Answer | str:
    """Return the answer to one input, or why the server does not take this form.

    Raises :class:`ServerError` where it answers with what is no completion.
    """
    body = form.body(model, given)
    if body is None:
        return "it takes text alone, and the probe's prompts have none"
    status, content = server.complete(body)
    if status != 200:
        return f"HTTP {status}{said(content)}"
    choice = _choice(server, content)
    log_probs = dict(_log_probs(choice.get("logprobs")))
    if form.log_probs and not log_probs:
        return "it gives no log-probabilities"
    return Answer(choice["text"], log_probs)


def _choice(server: Server, content: Any) -> dict[str, Any]:
    choices = content.get("choices") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict) or not isinstance(choice.get("text"), str):
        raise ServerError(f"{server} answers /v1/completions with what is no completion")
    return choice


def _log_probs(told: Any) -> Iterator[tuple[Token, float]]:
    """Yield the likeliest next tokens: OpenAI's two forms, and whatever else as nothing."""
    if not isinstance(told, dict):
        return
    places, content = told.get("top_logprobs"), told.get("content")
    if isinstance(places, list) and places and isinstance(places[0], dict):
        for name, value in places[0].items():
            if _is_log_prob(value):
                yield _token(name), float(value)
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        likeliest = content[0].get("top_logprobs")
        for one in likeliest if isinstance(likeliest, list) else ():
            if isinstance(one, dict) and _is_log_prob(one.get("logprob")):
                token = one.get("id", one.get("token"))
                if isinstance(token, int | str) and not isinstance(token, bool):
                    yield _token(token), float(one["logprob"])


def _token(name: Token) -> Token:
    """Return vLLM's ``token_id:17`` as 17."""
    match = re.fullmatch(r"token_id:(\d{1,9})", name) if isinstance(name, str) else None
    return int(match[1]) if match else name


def _is_log_prob(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -1e5 < value < 1e-3  # NaN is neither; an int may be beyond any float
