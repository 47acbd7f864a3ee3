"""How far answers here are from those in a probe, and how much of the method's effect is there.

Distances are root mean squares over the values of one kind of answer (logits, hidden states,
log-probabilities), as shares of the size of the answers. Four sets are compared: the probe's
``trained`` and ``head_only`` (the method off, the trained head on), and both as the model gives
them here. What the last one and its counterpart differ by is the noise of this dtype and device:
no method takes part in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug.effect.probe import Answers

_SMALL = 0.1  # answers smaller than this are differences of larger numbers
_SPREAD = 1 / 8  # of noise, the least share that may lie along the effect
_NOTABLE = 0.05  # of the effect: what one input may be off at least


@dataclass(frozen=True)
class Figures:
    """What was measured of one kind of answer, as shares of the size of the answers.

    ``effect``: trained to head only, in the probe. ``error``: here to trained; ``worst``: that of
    the worst input, in noises (or in twentieths of the effect, where those are larger).
    ``remaining``: here, with the method to without it (nan where that was not asked). ``noise``:
    without the method, here to the probe; no less than what is to be reckoned with. ``share``: how
    much of the effect is here, along its own direction (1: all of it), give or take
    ``uncertainty``, a standard deviation. ``finite``: no answer is NaN.
    """

    effect: float
    error: float
    worst: float
    remaining: float
    noise: float
    share: float
    uncertainty: float
    finite: bool = True


@dataclass(frozen=True)
class _Row:
    """One input's answers of one kind: here, trained, head only, and head only here."""

    here: Tensor
    trained: Tensor
    without: Tensor
    without_here: Tensor | None


def measured(
    here: Answers,
    without_here: Answers | None,
    trained: Answers,
    without: Answers,
    *,
    least: float,
) -> dict[str, Figures]:
    """Return the figures of every kind of answer; ``least`` noise is reckoned with in any case."""
    kinds = sorted({kind for answers in trained for kind in answers})
    found = {}
    for kind in kinds:
        rows = list(_rows(kind, here, without_here, trained, without))
        if rows:
            found[kind] = _figures(rows, least)
    return found


def _rows(
    kind: str,
    here: Answers,
    without_here: Answers | None,
    trained: Answers,
    without: Answers,
) -> Iterator[_Row]:
    """Yield rows of the values that are finite in the probe, in double precision."""
    import torch

    for number, (one, other) in enumerate(zip(trained, without, strict=True)):
        if kind not in one or kind not in other:
            continue
        kept = torch.isfinite(one[kind]) & torch.isfinite(other[kind])
        if not bool(kept.any()):
            continue
        off = without_here[number].get(kind) if without_here is not None else None
        yield _Row(
            here=here[number][kind][kept].double(),
            trained=one[kind][kept].double(),
            without=other[kind][kept].double(),
            without_here=None if off is None else off[kept].double(),
        )


def _figures(rows: Sequence[_Row], least: float) -> Figures:
    size = max(_rms([value for row in rows for value in (row.trained, row.without)]), _SMALL)
    asked = [row.without_here for row in rows if row.without_here is not None]
    finite = all(_is_finite(row.here) for row in rows) and all(map(_is_finite, asked))
    if not finite:
        effect = _rms([row.trained - row.without for row in rows]) / size
        nan = math.nan
        return Figures(effect, nan, nan, nan, nan, nan, nan, finite=False)
    floor = least * size
    noises = [_noise(row) for row in rows]
    noise = max(_rms(noises), floor)
    errors = [row.here - row.trained for row in rows]
    share, uncertainty = _share(rows, noises, floor)
    complete = len(asked) == len(rows)
    remaining = _rms([row.here - _off(row) for row in rows]) if complete else math.nan
    effect = _rms([row.trained - row.without for row in rows])
    allowed = max(noise, _NOTABLE * effect)
    return Figures(
        effect=effect / size,
        error=_rms(errors) / size,
        worst=max(_rms([e]) / max(_rms([n]), allowed) for e, n in zip(errors, noises, strict=True)),
        remaining=remaining / size,
        noise=noise / size,
        share=share,
        uncertainty=uncertainty,
    )


def _off(row: _Row) -> Tensor:
    return row.without if row.without_here is None else row.without_here


def _noise(row: _Row) -> Tensor:
    return _off(row) - row.without


def _share(rows: Sequence[_Row], noises: Sequence[Tensor], floor: float) -> tuple[float, float]:
    """Return the regression of the effect here on that in the probe, and its standard error.

    Inputs count as independent; within one, noise may lie along the effect more than by chance.
    """
    effects = [row.trained - row.without for row in rows]
    whole = sum(float(effect.square().sum()) for effect in effects)
    if whole == 0:
        return math.nan, math.nan
    along = sum(
        float(((row.here - _off(row)) * effect).sum())
        for row, effect in zip(rows, effects, strict=True)
    )
    variance = 0.0
    for noise, effect in zip(noises, effects, strict=True):
        lengths = float(effect.square().sum())
        energy = float(noise.square().sum()) + floor**2 * len(noise)
        variance += max(float((noise * effect).sum()) ** 2, _SPREAD * energy * lengths)
    return along / whole, math.sqrt(variance) / whole


def _rms(values: Sequence[Tensor]) -> float:
    count = sum(value.numel() for value in values)
    total = sum(float(value.square().sum()) for value in values)
    return math.sqrt(total / count) if count else 0.0


def _is_finite(values: Tensor) -> bool:
    import torch

    return bool(torch.isfinite(values).all())
