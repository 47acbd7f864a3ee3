"""Telling models apart by the log-probabilities of the next token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ftplug.effect.probe import Probe
from ftplug_registry.verifying.completions import can_be_asked

if TYPE_CHECKING:
    from ftplug.effect.pieces import Answers
    from ftplug_registry.verifying.completions import Answer, Token

NAME = "log-probabilities"
SHARE = 0.05  # of the effect: what may lie between a server's answers and a model's
ROUNDING = 0.03  # nats: what bfloat16 may leave between two computations of the same
_LARGEST_SHARE = 0.2  # of the effect, below which rounding counts as such
_COVERED = 0.7  # share of the server's likeliest tokens that the probe must know


def asked(probe: Probe, *, ids: bool) -> list[int]:
    """Return the inputs to ask: all by their ids, by text those that have one."""
    return [
        index
        for index, given in enumerate(probe.inputs)
        if can_be_asked(given, ids=ids) and "log_probs" in probe.trained[index]
    ]


def judged(
    probe: Probe, answers: Mapping[int, Answer], spelled: Mapping[str, int]
) -> tuple[str, str]:
    """Return verdict and figures: distances are root mean squares over tokens, in nats."""
    found = {index: _by_id(answer.log_probs, spelled) for index, answer in answers.items()}
    names = sum(len(answer.log_probs) for answer in answers.values())
    pairs = {kind: list(_pairs(kind, probe, found)) for kind in _references(probe)}
    common = sum(len(each) for each in pairs["trained"])
    if not common or common < _COVERED * names:
        return "neither", (
            f"of its {names} likeliest tokens {common} are likely to trained model or base"
        )
    effect = min(
        _distance([_differences(probe, kind, index, found) for index in found])
        for kind in pairs
        if kind != "trained"
    )
    apart = {kind: _distance(each) for kind, each in pairs.items()}
    worst = max(_distance([each]) for each in pairs["trained"] if each)
    without = min(value for kind, value in apart.items() if kind != "trained")
    figures = (
        f"{apart['trained']:.4f} nats from the trained model's, {without:.4f} from the base's, "
        f"which are {effect:.4f} apart"
    )
    return _verdict(apart["trained"], without, effect, worst), figures


def _verdict(to_trained: float, to_base: float, effect: float, worst: float) -> str:
    near = max(SHARE * effect, min(_LARGEST_SHARE * effect, ROUNDING))
    if to_trained <= near and worst <= max(5 * near, _LARGEST_SHARE * effect):
        return "trained" if effect > 1e-5 else "not decidable"
    if to_base <= near:
        return "base"
    if effect < 3 * ROUNDING and min(to_trained, to_base) <= ROUNDING:
        return "not decidable"
    return "neither"


def _references(probe: Probe) -> dict[str, Answers]:
    kinds = {"trained": probe.trained, "head only": probe.head_only}
    if probe.base is not None and all("log_probs" in each for each in probe.base):
        kinds["base"] = probe.base
    return kinds


def _by_id(log_probs: Mapping[Token, float], spelled: Mapping[str, int]) -> dict[int, float]:
    ids = ((spelled.get(t) if isinstance(t, str) else t, v) for t, v in log_probs.items())
    return {token: value for token, value in ids if token is not None}


def _pairs(
    kind: str, probe: Probe, found: Mapping[int, Mapping[int, float]]
) -> Iterator[list[float]]:
    """Yield, for each prompt, how far the server is from a model at the tokens that both name."""
    for index, given in found.items():
        known = _known(probe, kind, index)
        yield [value - known[token] for token, value in given.items() if token in known]


def _differences(
    probe: Probe, kind: str, index: int, found: Mapping[int, Mapping[int, float]]
) -> list[float]:
    """Return how far trained and other model are apart at the tokens that the server names."""
    trained, other = _known(probe, "trained", index), _known(probe, kind, index)
    return [trained[token] - other[token] for token in found[index] if token in trained]


def _known(probe: Probe, kind: str, index: int) -> dict[int, float]:
    values = _references(probe)[kind][index]["log_probs"].tolist()
    return dict(zip(probe.token_ids[index].tolist(), values, strict=True))


def _distance(rows: list[list[float]]) -> float:
    values = [value for row in rows for value in row]
    return float((sum(v * v for v in values) / max(len(values), 1)) ** 0.5)
