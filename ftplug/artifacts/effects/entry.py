"""The effect of an artifact: its probe's file, its entry in the manifest, what is said of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.entries import EffectEntry
from ftplug.attaching.sharding import is_sharded
from ftplug.context import logger
from ftplug.effect.probe import FILE
from ftplug.effect.taking import OFF, Outcome, outcome_of
from ftplug.errors import one_line

if TYPE_CHECKING:
    from torch import nn


def asked(
    model: nn.Module, *, probe: bool = True, alone: bool = False, tokenizer: Any = None
) -> Outcome:
    """Ask a model that is about to be saved; all processes that share it call.

    ``alone``: this process holds gathered tensors, and the others may not be here.
    """
    if not probe:
        return Outcome(note=OFF)
    return outcome_of(model, alone=alone and is_sharded(model), tokenizer=tokenizer)


def written(
    outcome: Outcome, stage: Path, methods: str, training: Mapping[str, Any], target: Path
) -> EffectEntry:
    """Write the probe into the folder of an artifact and return what the manifest says of it.

    An effect that is none is warned about, and so is a probe that should have been made.
    """
    if outcome.probe is not None:
        try:
            outcome.probe.write(stage / FILE)
            effect = outcome.probe.effect()
        except Exception as error:  # a trained model must not be lost to a question about it
            (stage / FILE).unlink(missing_ok=True)
            outcome = Outcome(
                note=f"the probe cannot be written: {one_line(error)}", expected=False
            )
    if outcome.probe is None:
        level = logging.INFO if outcome.expected else logging.WARNING
        logger.log(level, "%s has no probe: %s", target, outcome.note)
        return {"probe": None, "note": outcome.note[:600]}
    entry: EffectEntry = {
        "probe": FILE,
        "kl": _number(effect.kl),
        "changed": _number(effect.changed),
        "distance": _number(effect.distance) or 0.0,
        "nil": effect.is_nil,
        "dtype": outcome.probe.dtype,
    }
    if outcome.unseen:
        entry["unseen"] = list(outcome.unseen)
    if effect.is_nil:
        logger.warning("%s: %s", target, _nothing(methods, training))
    return entry


def in_words(effect: Mapping[str, Any] | None) -> str:
    """Return what a manifest says of an effect as one sentence; nothing of an older one."""
    if not effect:
        return ""
    if not effect.get("probe"):
        return f"not measured: {effect['note']}" if effect.get("note") else "not measured"
    if effect.get("nil"):
        return "none: the method changes no answer to the probe's inputs"
    said = []
    if (kl := effect.get("kl")) is not None:
        said.append(f"mean KL {kl:.3g} nats")
    if (changed := effect.get("changed")) is not None:
        said.append(f"{changed:.0%} of the top answers changed")
    if (distance := effect.get("distance")) is not None:
        said.append(f"answers moved by {distance:.2%}")
    return f"{', '.join(said)} (probe, in {effect.get('dtype')})"


def _nothing(methods: str, training: Mapping[str, Any]) -> str:
    trained = training.get("steps")
    why = "nothing has trained yet" if trained == 0 else "what it added may never have trained"
    return (
        f"{methods} changes no answer: loaded, this artifact answers as its base does "
        f"({why}): look at the learning rate, build the optimizer after ftplug.apply, and save "
        "after training"
    )


def _number(value: float | None) -> float | None:
    """Return it in six digits: more is noise."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")
