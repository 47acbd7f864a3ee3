"""What a replay concludes from its figures: a verdict, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ftplug.effect.figures import Figures

Verdict = Literal["trained", "no effect", "other", "not decidable here", "not replayable"]

TOLERANCE = 3.0  # noises that trained answers may be off
CERTAIN = 2.0  # tolerances beyond which noise is no explanation any more
QUANTIZED = "quantized"

# Of the size of the answers: what is reckoned with in any case (the order of additions, from device
# to device), and the most that a dtype explains. TF32, which is float32 to torch, has ten bits.
_LEAST = {"float64": 4e-6, "float32": 4e-6, "float16": 1e-3, "bfloat16": 4e-3, QUANTIZED: 4e-3}
_MOST = {"float64": 2e-3, "float32": 2e-3, "float16": 1.5e-2, "bfloat16": 5e-2, QUANTIZED: 1.5e-1}
# Of the effect: noise that the trained answers have more than those without the method. A little of
# it is tolerated; all of it keeps what is honest from being called something else.
_TOLERATED = 5e-3
_MORE = {"float64": 0.0, "float32": 0.0, "float16": 5e-3, "bfloat16": 1e-2, QUANTIZED: 1e-1}
# Of the size of the answers: noise beyond which a base may as well have lost a part of itself.
_CLEAR = {QUANTIZED: 7e-2}
# Of the effect: what other experts make of it, which rounding may lead a router to; of it a part
# along the effect.
_ROUTED, _ALONG = 1e-1, 3e-2
_RESOLUTION = 0.3  # of the effect: an uncertainty that hides half of it tells nothing


@dataclass(frozen=True)
class Conditions:
    """The dtype of the model that the probe asked, and of this one (or ``quantized``).

    ``rounded`` where the weights were rounded since, as merging does; ``routed`` where a router
    chooses experts; ``repeated`` where the base's answers here are those of then to the last bit.
    """

    saved: str
    here: str
    rounded: bool = False
    routed: bool = False
    repeated: bool = False

    @property
    def same(self) -> bool:
        """Whether nothing but a device or a kernel lies between the two."""
        return self.saved == self.here != QUANTIZED

    @property
    def alike(self) -> bool:
        """Whether nothing is rounded otherwise than it was.

        One dtype is not enough: another kernel (of attention, of another device) adds in another
        order, and of a short type each step is rounded. The base's own answers show it.
        """
        return self.same and self.repeated and not self.rounded

    @property
    def least(self) -> float:
        """The least noise, as a share of the size of the answers."""
        if self.alike:
            return _LEAST["float32"]
        return max(_of(_LEAST, self.saved), _of(_LEAST, self.here))

    @property
    def most(self) -> float:
        """The most noise that these dtypes explain, as a share of the size of the answers."""
        return max(_of(_MOST, self.saved), _of(_MOST, self.here))

    @property
    def clear(self) -> float:
        """The most noise beside which answers pass as trained, as a share of their size."""
        return min(_CLEAR.get(dtype, self.most) for dtype in (self.saved, self.here))

    @property
    def more(self) -> float:
        """The noise of the trained answers that shows nowhere else, as a share of the effect."""
        if self.alike:
            return 0.0
        return max(_of(_MORE, self.saved), _of(_MORE, self.here))

    @property
    def astray(self) -> bool:
        """Whether rounding may have led a router to other experts than when the probe was asked."""
        exact = self.same and self.here in ("float64", "float32") and not self.rounded
        return self.routed and not exact


def _of(known: Mapping[str, float], dtype: str) -> float:
    return known.get(dtype, known["bfloat16"])


@dataclass(frozen=True)
class Conclusion:
    """A verdict on one kind of answer, and what it rests on.

    ``beyond``: how many tolerances the answers are off. ``unlike``: they are not the trained ones,
    for whatever reason, so that no other kind of answer makes up for them.
    """

    verdict: Verdict
    reason: str
    beyond: float
    unlike: bool = False


def concluded(figures: Figures, conditions: Conditions) -> Conclusion:
    """Return what the figures of one kind of answer say.

    A verdict needs an effect of at least three times the noise. ``trained`` needs answers within
    three noises of the trained ones, the whole effect along its own direction, and noise that
    would not hide the loss of half of it. Between that and the certain is "not decidable here".
    """
    if not figures.finite:
        return Conclusion("other", "answers here are NaN or infinite", math.inf)
    tolerated = min(conditions.more, _TOLERATED) * figures.effect
    tolerance = TOLERANCE * math.hypot(min(figures.noise, conditions.most), tolerated)
    beyond = figures.error / tolerance
    exact = TOLERANCE * _LEAST["float32"]
    if figures.error <= exact <= figures.effect / 10:
        return Conclusion("trained", "", beyond)  # to the last digits, whatever the base says here
    if figures.noise > conditions.most:
        if conditions.same:
            return Conclusion("other", "the base itself answers differently here", beyond)
        reason = "without the method too the answers are others here, by more than a dtype explains"
        return Conclusion("not decidable here", reason, beyond, unlike=True)
    if figures.effect < TOLERANCE * figures.noise:
        if figures.error > CERTAIN * (tolerance + figures.effect):
            return Conclusion("other", "further from the trained answers than noise is", beyond)
        reason = "the effect is below three times the noise"
        return Conclusion("not decidable here", reason, beyond, unlike=beyond > 1)
    return _of_an_effect(figures, tolerance, beyond, conditions)


def _of_an_effect(
    figures: Figures, tolerance: float, beyond: float, conditions: Conditions
) -> Conclusion:
    """Conclude where the effect stands out from the noise."""
    missing = abs(1 - figures.share)
    allowed = TOLERANCE * figures.uncertainty
    more = along = conditions.more
    if conditions.astray:
        more, along = max(more, _ROUTED), max(along, _ALONG)
    certain = CERTAIN * math.hypot(tolerance, TOLERANCE * more * figures.effect)
    certainly = CERTAIN * math.hypot(allowed, TOLERANCE * along)
    if _has_none(figures, tolerance, allowed):
        return Conclusion("no effect", "the answers are those without the method", beyond)
    if figures.error > certain or missing > certainly:
        return Conclusion("other", "neither the trained answers nor those without", beyond)
    if beyond > 1 or missing > allowed or figures.worst > CERTAIN * TOLERANCE:
        return Conclusion("not decidable here", "at the edge of the noise", beyond, unlike=True)
    if figures.noise > conditions.clear:
        reason = "a base with a fault may be as near"
        return Conclusion("not decidable here", reason, beyond, unlike=True)
    if allowed > _RESOLUTION:
        return Conclusion("not decidable here", "noise would hide a part of the effect", beyond)
    return Conclusion("trained", "", beyond)


def _has_none(figures: Figures, tolerance: float, allowed: float) -> bool:
    """Whether the answers with the method are those without it, here or (unasked) in the probe."""
    if math.isnan(figures.remaining):
        return abs(figures.share) <= min(allowed, 0.5) and figures.error >= figures.effect / 2
    return figures.remaining <= min(tolerance, figures.effect / 4) and abs(figures.share) <= 0.25


def overall(conclusions: Mapping[str, Conclusion]) -> tuple[str, Conclusion]:
    """Return one for all kinds of answer, and the kind: the worst of what was decided, if any."""
    ranked = ("other", "no effect", "trained", "not decidable here")

    def rank(each: tuple[str, Conclusion]) -> float:
        return 1.5 if each[1].unlike else ranked.index(each[1].verdict)

    found = sorted(conclusions.items(), key=rank)
    if not found:
        return "", Conclusion("not decidable here", "the probe has no answers to compare", 0.0)
    kind, worst = found[0]
    if worst.verdict == "no effect" and any(c.verdict == "trained" for _, c in found):
        return kind, Conclusion("other", "a part of the answers has no effect", worst.beyond)
    return kind, worst
