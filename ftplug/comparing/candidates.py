"""What ``--try`` names: methods with settings, as one text, and the eight of ``--try default``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.errors import FtplugError, one_line
from ftplug.host import Host, from_texts

if TYPE_CHECKING:
    from ftplug.method import LearningRate, Method

DEFAULT = "default"
_EVERYWHERE = (
    "lora target_modules=all-linear",
    "lora target_modules=all-linear use_dora=true",
    "freeze layers=2",
    "ia3",
    "bottleneck",
    "reft",
    "full",
)
_ENCODERS = (*_EVERYWHERE, "bitfit")
_DECODERS = (*_EVERYWHERE, "layernorm")  # today's have no biases to train
_OF_DECODERS = ("ForCausalLM", "LMHeadModel")  # how the names of their classes end


@dataclass(frozen=True)
class Candidate:
    """What is compared: a text as given, and the configured methods that it names."""

    text: str
    methods: list[Method]

    def is_same(self, other: Candidate) -> bool:
        """Whether both name the same methods with the same settings, however they are written."""
        return _spec(self) == _spec(other)


def parse(text: str, option: str = "--try") -> Candidate:
    """Return what ``lora r=8``, ``freeze layers=2`` or ``lora+bitfit lora.r=4`` names.

    Settings with spaces are quoted as in a shell. Raises :class:`FtplugError`, in one line that
    names the text, for a method or a setting that there is not.
    """
    text = text.strip()
    try:
        names, *settings = shlex.split(text)
    except ValueError as error:
        raise FtplugError(f"{option} {text!r}: {_why_no_words(text, error)}") from None
    try:
        methods = from_texts(names.split("+"), _texts(settings))
        Host(methods)  # refuses what one run cannot have
    except FtplugError as error:
        raise type(error)(f"{option} {text!r}: {one_line(error)}") from None
    return Candidate(text, methods)


def candidates(texts: Sequence[str]) -> list[Candidate]:
    """Return the candidates of several texts; the same one twice is refused."""
    found: list[Candidate] = []
    for candidate in map(parse, texts):
        if same := next((one for one in found if one.is_same(candidate)), None):
            raise FtplugError(
                f"--try {candidate.text!r} is the same candidate as --try {same.text!r}: leave one"
            )
        found.append(candidate)
    return found


def with_baseline(texts: Sequence[str], baseline: str | None) -> tuple[tuple[str, ...], str]:
    """Return all candidates' texts and the baseline among them: the first one, unless given.

    A baseline that is written otherwise than a candidate with the same methods and settings is that
    candidate; one that is none of them becomes the first.
    """
    found = candidates(texts)
    if baseline is None:
        return tuple(one.text for one in found), found[0].text
    wanted = parse(baseline, "--baseline")
    if same := next((one for one in found if one.is_same(wanted)), None):
        return tuple(one.text for one in found), same.text
    return (wanted.text, *(one.text for one in found)), wanted.text


def default_candidates(model_class: str) -> tuple[str, ...]:
    """Return eight different methods that fit a model, from its class's name."""
    return _DECODERS if model_class.endswith(_OF_DECODERS) else _ENCODERS


def low_suggested_high(methods: Sequence[Method]) -> LearningRate | None:
    """Return the learning rates that fit methods, as ``--lr suggested`` takes them; None if none.

    Of several methods the first that suggests any decides.
    """
    return next((rates for one in methods if (rates := one.suggested_learning_rate())), None)


def searched_rates(methods: Sequence[Method]) -> tuple[float, ...]:
    """Return the learning rates to search, the likeliest first.

    Of methods that suggest none a decade each way: from 1e-3 where they add few parameters, from
    5e-5 where the base itself trains. A script's own rate fits what it trained before, at best.
    """
    if known := low_suggested_high(methods):
        return tuple(dict.fromkeys((known.suggested, known.low, known.high)))
    first = 1e-3 if any(method.kind == "structure" for method in methods) else 5e-5
    return (first, first / 10, first * 10)


def _texts(settings: Sequence[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise FtplugError(f"{setting!r} is no SETTING=VALUE, e.g. lora r=8 (methods join by +)")
        if key in texts:
            raise FtplugError(f"{key!r} is set twice")
        texts[key] = value
    return texts


def _why_no_words(text: str, error: ValueError) -> str:
    if not text:
        return "name a method with its settings, e.g. --try 'lora r=8'"
    return f"{one_line(error).lower()}: quote settings as in a shell"


def _spec(candidate: Candidate) -> list[tuple[str, dict[str, object]]]:
    return [(method.name, method.settings()) for method in candidate.methods]
