"""What a method's artifact shows of its effect: the probe sees every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ftplug.artifacts.manifest import read_manifest
from ftplug.attaching.attachment import require_attachment
from ftplug.effect.answers import ask_as
from ftplug.effect.probe import FILE, Probe
from ftplug.structure import named_tensors
from ftplug.testing.case import Case


def every_saved_tensor_is_seen(case: Case) -> None:
    """Halving any saved tensor changes an answer of the artifact's probe.

    Unless the manifest lists it as unseen, it is all zeros, or the mathematics makes it invisible
    (``still``). Of a tensor that is divided by its own norm (DeLoRA's) half is the same: there the
    values in reverse order must change one.
    """
    effect: Mapping[str, Any] = read_manifest(case.artifact).effect or {}
    assert effect.get("probe"), (
        f"{case}: the artifact has no probe: {effect.get('note')}: where the model's inputs are to "
        "contain something, implement probe_inputs"
    )
    assert not effect.get("nil"), f"{case}: training changed no answer of the probe"
    probe, model = Probe.read(case.artifact / FILE), case.trained()
    unseen = [name for name in _counting(case, model) if not _is_seen(model, name, probe)]
    assert not set(unseen) - set(effect.get("unseen", ())), (
        f"{case}: {unseen[0]}: with half of its values every answer of the probe is as before "
        f"({len(unseen)} in all): let probe_inputs return inputs that it acts on"
    )


def _counting(case: Case, model: nn.Module) -> Mapping[str, Tensor]:
    """Return the saved tensors of which a half is something else, and visible."""
    attached, live = require_attachment(model), named_tensors(model)
    original = {name: attached.plan.existing.get(name) for name in attached.plan.saved}
    return {
        name: live[name]
        for name in attached.plan.saved
        if live[name].is_floating_point()
        and live[name].any()
        and not case.may_stand_still(name, original[name])
    }


def _is_seen(model: nn.Module, name: str, probe: Probe) -> bool:
    """Whether the first input, or else all of them, are answered otherwise with half a tensor."""
    tensor = named_tensors(model)[name]
    before = tensor.detach().clone()
    try:
        for other in (before / 2, before.flip(tuple(range(before.ndim)))):
            with torch.no_grad():
                tensor.copy_(other)
            if any(_differs(model, part) for part in (_first(probe), probe)):
                return True
        return False
    finally:
        with torch.no_grad():
            tensor.copy_(before)


def _differs(model: nn.Module, probe: Probe) -> bool:
    pairs = zip(ask_as(model, probe), probe.trained, strict=True)
    return any(not torch.equal(now[kind], then[kind]) for now, then in pairs for kind in then)


def _first(probe: Probe) -> Probe:
    parts: dict[str, Any] = {
        name: getattr(probe, name)[:1] for name in ("inputs", "trained", "token_ids")
    }
    return replace(probe, **parts)
