"""Asking a model once more what a probe asked: does it answer as it was trained to?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.attaching.attachment import attachment_of
from ftplug.attaching.disabling import trunk_of_base
from ftplug.base.quantization import is_quantized
from ftplug.effect.answers import ask_as
from ftplug.effect.figures import Figures, measured
from ftplug.effect.packing import KINDS
from ftplug.effect.plainly import plainly
from ftplug.effect.verdicts import (
    QUANTIZED,
    Conditions,
    Verdict,
    concluded,
    overall,
)
from ftplug.errors import NotReplayable
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

    from ftplug.effect.probe import Answers, Probe

GRAVE = 10.0  # tolerances: answers further off in the saved dtype are refused


@dataclass(frozen=True)
class Replayed:
    """What a replay found: the verdict, why, and the figures of each kind of answer.

    ``beyond`` counts tolerances between the answers here and the trained ones; ``saved`` and
    ``here`` are the dtypes (``quantized`` is one); ``inputs`` were asked, and answers of one
    ``kind`` decided.
    """

    verdict: Verdict
    reason: str = ""
    beyond: float = 0.0
    saved: str = ""
    here: str = ""
    inputs: int = 0
    kind: str = ""
    figures: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether loading is refused: nothing of the effect is here, or surely something else."""
        grave = self.verdict == "other" and self.saved == self.here and self.beyond >= GRAVE
        return self.verdict == "no effect" or grave

    def line(self) -> str:
        """Return the verdict and its figures, for a message."""
        said = f"effect: {self.verdict}"
        if self.reason:
            said += f" ({self.reason})"
        return f"{said}: {self._measured()}" if self.kind else said

    def _measured(self) -> str:
        most, what = self.figures[self.kind], f"{self.inputs} x {self.kind}, {self.here}"
        if not most.finite:
            return what
        share = f"{most.share:.0%} of the effect is here, " if math.isfinite(most.share) else ""
        return (
            f"{share}answers {most.error:.2g} from the trained ones, effect {most.effect:.2g}, "
            f"noise {most.noise:.2g} ({what})"
        )

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; what was not measured is null."""
        figures = {
            kind: {k: _or_null(v) for k, v in asdict(each).items()}
            for kind, each in self.figures.items()
        }
        own = {k: _or_null(v) for k, v in vars(self).items() if k != "figures"}
        return own | {"figures": figures}


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def replay(model: nn.Module, probe: Probe, *, one: bool = False) -> Replayed:
    """Ask a model that carries its method what the probe asked, and compare.

    With ``one`` only the input with the largest effect, and the base's own noise only where the
    answers are not the trained ones to the last digits; all before the model is said to be another:
    on a single input rounding alone may have led a router to another expert. Nothing of the model
    changes; all processes call. Raises :class:`ftplug.errors.NotProbed` where the model cannot be
    asked.
    """
    if not one:
        return _replayed(model, probe)
    found = _replayed(model, _largest(probe), one=True)
    return _replayed(model, probe) if found.verdict == "other" else found


def _replayed(model: nn.Module, probe: Probe, *, one: bool = False) -> Replayed:
    try:
        with plainly(model):
            answers = ask_as(model, probe)
            found = compared(answers, None, probe, model)
            if _trains_head_alone(model) or (one and found.verdict == "trained"):
                return found
            without = without_method(model, probe)
    except NotReplayable as error:
        return Replayed("not replayable", str(error), inputs=len(probe.inputs))
    return compared(answers, without, probe, model)


def without_method(model: nn.Module, probe: Probe) -> Answers | None:
    """Return what the head of a model that carries its method answers on the base's trunk.

    None where the head alone trained: it is all the effect there is.
    """
    if _trains_head_alone(model):
        return None
    with plainly(model), quiet(), trunk_of_base(model):
        return ask_as(model, probe)


def replay_plain(model: nn.Module, probe: Probe, without: Answers | None) -> Replayed:
    """The same for a model without a method, as merging leaves it; its weights were rounded.

    ``without`` are the answers of its head on the base's trunk, where they were asked before.
    """
    return compared(ask_as(model, probe), without, probe, model, rounded=True)


def compared(
    answers: Answers,
    without: Answers | None,
    probe: Probe,
    model: nn.Module,
    *,
    rounded: bool = False,
) -> Replayed:
    """Return what answers of a model say, beside those of its head on the base's trunk."""
    routed = bool(structure.expert_parameters(model))
    repeated = _is_repeated(answers, without, probe, model)
    conditions = Conditions(probe.dtype, dtype_of(model), rounded, routed, repeated)
    reference = probe.head_only
    least = conditions.least
    if _trains_head_alone(model):
        least = max(least, _of_the_trunk(answers, probe, conditions))
    figures = measured(answers, without, probe.trained, reference, least=least)
    conclusions = {kind: concluded(each, conditions) for kind, each in figures.items()}
    kind, found = overall(dict(sorted(conclusions.items(), key=lambda k: -figures[k[0]].effect)))
    return Replayed(
        found.verdict,
        found.reason,
        found.beyond,
        conditions.saved,
        conditions.here,
        len(probe.inputs),
        kind,
        figures,
    )


def dtype_of(model: nn.Module) -> str:
    """Return the dtype a model computes in as torch names it, or ``quantized``."""
    inner: Any = structure.pretrained(model)
    if is_quantized(inner):
        return QUANTIZED
    return str(inner.dtype).removeprefix("torch.")


def _trains_head_alone(model: nn.Module) -> bool:
    """Whether the model's method leaves the base's trunk as it is: its effect is the head."""
    attached = attachment_of(model)
    if attached is None or attached.plan.added:
        return False
    return set(attached.plan.may_train) <= set(attached.trained_head)


def _is_repeated(answers: Answers, without: Answers | None, probe: Probe, model: nn.Module) -> bool:
    """Whether the base's trunk answers here as it did, to the last bit: by hidden states, if any.

    Where it was not asked yet it counts as such: who is in doubt asks it then.
    """
    has_hidden = any("hidden" in each for each in probe.trained)
    kinds = ("hidden",) if has_hidden else KINDS
    if without is not None:
        return _are_equal(without, probe.head_only, kinds)
    if not _trains_head_alone(model):
        return True
    return has_hidden and _are_equal(answers, probe.trained, kinds)


def _are_equal(here: Answers, then: Answers, kinds: Sequence[str]) -> bool:
    pairs = [(one, other, k) for one, other in zip(here, then, strict=True) for k in kinds]
    return all(
        (k in one) == (k in other) and (k not in one or bool((one[k].cpu() == other[k]).all()))
        for one, other, k in pairs
    )


def _of_the_trunk(answers: Answers, probe: Probe, conditions: Conditions) -> float:
    """Return how noisy a trunk is that nothing trained, by its hidden states."""
    hidden = measured(answers, None, probe.trained, probe.trained, least=conditions.least)
    return hidden["hidden"].error if "hidden" in hidden else 0.0


def _largest(probe: Probe) -> Probe:
    """Return a probe of the one input on which the method changes most."""
    from ftplug.effect.distances import relative_distance

    pairs = zip(probe.trained, probe.head_only, strict=True)
    effects = [relative_distance((trained,), (without,)) for trained, without in pairs]
    n = effects.index(max(effects))
    return replace(
        probe,
        inputs=probe.inputs[n : n + 1],
        trained=probe.trained[n : n + 1],
        head_only=probe.head_only[n : n + 1],
        base=None,
        token_ids=probe.token_ids[n : n + 1],
        continuations=(),
    )
