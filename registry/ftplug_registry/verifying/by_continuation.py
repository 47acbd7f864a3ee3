"""Telling models apart by what they write after a prompt: coarser than log-probabilities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ftplug.effect.probe import Probe
from ftplug_registry.verifying.completions import can_be_asked

if TYPE_CHECKING:
    from ftplug.effect.pieces import Continuation
    from ftplug_registry.verifying.completions import Answer

NAME = "continuations"
_SHARE = 0.75  # of the prompts that tell: rounding may turn the others
_FEWEST = 2  # prompts that tell


def asked(probe: Probe, *, ids: bool) -> list[int]:
    """Return the prompts whose continuations are known and differ between trained and base.

    All prompts where none differ, so that there is something to ask.
    """
    known = [one for one in probe.continuations if can_be_asked(probe.inputs[one.input], ids=ids)]
    return [one.input for one in known if _tells(one)] or [one.input for one in known]


def judged(
    probe: Probe, answers: Mapping[int, Answer], spelled: Mapping[str, int]
) -> tuple[str, str]:
    """Return verdict and figures: how many continuations are whose."""
    telling = [one for one in probe.continuations if one.input in answers and _tells(one)]
    votes = Counter(_whose(one, answers[one.input].text) for one in telling)
    figures = ", ".join(
        f"{votes[whose]} as {said}"
        for whose, said in (("trained", "the trained model"), ("base", "the base"))
    )
    figures += f", {votes['neither']} as neither, of {len(telling)} where these two differ"
    if len(telling) < _FEWEST:
        return "not decidable", figures
    for whose in ("trained", "base"):
        if votes[whose] >= _SHARE * len(telling):
            return whose, figures
    return "neither", figures


def _tells(one: Continuation) -> bool:
    return one.base_text is not None and one.base_text.strip() != one.trained_text.strip()


def _whose(one: Continuation, text: str) -> str:
    """Return whose continuation a text is: it follows it beyond where the two part, and halfway."""
    follows = {
        "trained": _followed(one.trained_text, text),
        "base": _followed(one.base_text or "", text),
    }
    first, second = sorted(follows, key=lambda whose: -follows[whose])
    return first if follows[first] > max(follows[second], 0.5) else "neither"


def _followed(known: str, text: str) -> float:
    """Return which share of a continuation a text begins with; leading spaces do not count."""
    known, text = known.strip(), text.strip()
    differs = (at for at, (one, other) in enumerate(zip(known, text, strict=False)) if one != other)
    common = next(differs, min(len(known), len(text)))
    return common / len(known) if known else float(not text)
