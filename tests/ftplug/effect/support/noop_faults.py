"""Ways in which an artifact loads and does nothing, or not what was trained: no error, no warning.

Each fault changes a model that was loaded as another loader would have left it. What it stands for
was seen in public: names that did not match, a scale or bias that was forgotten, experts skipped.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from trained_artifacts import Artifact, nudge

import ftplug
from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.disabling import trunk_of_base

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Loaded:
    """A model with its artifact, and what its trunk's tensors were before they were trained."""

    artifact: Artifact
    other: Artifact
    model: Any
    initial: Values
    dtype: torch.dtype | str = torch.float32

    @property
    def trunk(self) -> Values:
        """The trained tensors that are not the head's."""
        attached = require_attachment(self.model)
        names = set(attached.plan.may_train) - set(attached.trained_head)
        return {n: p for n, p in self.model.named_parameters() if n in names}


@functools.cache
def _once(artifact: Artifact, other: Artifact, dtype: torch.dtype | str) -> Loaded:
    model = artifact.loaded(artifact.new_base(dtype))
    fresh = artifact.new_base(dtype)
    ftplug.apply(fresh, artifact.kind.method, **artifact.kind.settings)
    initial = {n: p.detach().clone() for n, p in fresh.named_parameters()}
    return Loaded(artifact, other, model, initial, dtype)


def loaded(artifact: Artifact, other: Artifact, dtype: torch.dtype | str = torch.float32) -> Loaded:
    """Load an artifact, and note what its method starts from; each time a model of its own."""
    once = _once(artifact, other, dtype)
    return replace(once, model=copy.deepcopy(once.model))


Fault = Callable[[Loaded], Any]
"""Changes the model, or returns another; None where the fault means nothing for a method."""


def _scaled(model: Loaded, factor: float, names: Iterable[str] | None = None) -> Any:
    """Move tensors between what they were at first (0) and what they are (1)."""
    chosen = model.trunk if names is None else {n: model.trunk[n] for n in names}
    if not chosen:
        return None
    with torch.no_grad():
        for name, value in chosen.items():
            start = model.initial[name].to(value)
            value.copy_(start + factor * (value - start))
    return model.model


def _layer(name: str) -> int | None:
    found = re.search(r"\.(\d+)\.", f".{name}.")
    return int(found[1]) if found else None


def _layers(model: Loaded) -> dict[int, list[str]]:
    """Return the names of trunk tensors by layer; of a prefix the rows of one layer are apart."""
    found: dict[int, list[str]] = {}
    for name in model.trunk:
        if (number := _layer(name)) is not None:
            found.setdefault(number, []).append(name)
    return found


def _in_layers(model: Loaded, chosen: Callable[[int, int], bool]) -> Any:
    layers = _layers(model)
    if len(layers) > 1:
        names = [n for i, names in layers.items() if chosen(i, len(layers)) for n in names]
        return _scaled(model, 0.0, names)
    return _rows_by_layer(model, chosen)


def _rows_by_layer(model: Loaded, chosen: Callable[[int, int], bool]) -> Any:
    """The same where one tensor has all layers in its columns, as a prefix has."""
    count = model.model.config.num_hidden_layers
    with torch.no_grad():
        for value in model.trunk.values():
            if value.ndim < 2 or value.shape[-1] % count:
                return None
            for number, columns in enumerate(value.chunk(count, dim=-1)):
                if chosen(number, count):
                    columns.zero_()
    return model.model


def _permuted(model: Loaded, order: Callable[[int, int], int]) -> Any:
    """Give each layer what another one learned."""
    layers = _layers(model)
    if len(layers) < 2:
        return _permuted_columns(model, order)
    before = {n: v.detach().clone() for n, v in model.trunk.items()}
    with torch.no_grad():
        for number, names in layers.items():
            for name in names:
                source = re.sub(
                    rf"\.{number}\.", f".{order(number, len(layers))}.", f".{name}.", count=1
                ).strip(".")
                if source in before and before[source].shape == before[name].shape:
                    model.trunk[name].copy_(before[source])
    return model.model


def _permuted_columns(model: Loaded, order: Callable[[int, int], int]) -> Any:
    count = model.model.config.num_hidden_layers
    with torch.no_grad():
        for value in model.trunk.values():
            if value.shape[-1] % count:
                return None
            parts = [part.clone() for part in value.chunk(count, dim=-1)]
            value.copy_(torch.cat([parts[order(i, count)] for i in range(count)], -1))
    return model.model


def _each(model: Loaded, change: Callable[[Tensor], Tensor | None]) -> Any:
    """Put something else in the place of every trained tensor that it means something for."""
    done = False
    with torch.no_grad():
        for value in model.trunk.values():
            other = change(value.detach().clone())
            if other is not None and not torch.equal(other, value):
                value.copy_(other)
                done = True
    return model.model if done else None


def _swapped_rows(value: Tensor) -> Tensor | None:
    """The rows of a prefix have no order: there it is no fault."""
    half = value.shape[0] // 2
    return torch.cat([value[half:], value[:half]]) if half else None


def _transposed(value: Tensor) -> Tensor | None:
    return value.transpose(-1, -2).reshape(value.shape) if value.ndim > 1 else value.flip(0)


def _without_half_the_width(model: Loaded) -> Any:
    """Half of a rank, of a bottleneck, of a prefix's length: what another config would keep."""
    with torch.no_grad():
        for name, value in model.trunk.items():
            start, half = model.initial[name].to(value), (value.shape[0] + 1) // 2
            value[half:] = start[half:] if value.ndim == 1 else 0
    return model.model


def _small_values_lost(model: Loaded) -> Any:
    """What a coarse rounding loses: of each tensor the smaller half of what it learned."""
    with torch.no_grad():
        for name, value in model.trunk.items():
            change = value - model.initial[name].to(value)
            small = change.abs() <= change.abs().float().median().to(change)
            value.copy_(torch.where(small, model.initial[name].to(value), value))
    return model.model


def _of_another_run(model: Loaded, chosen: Callable[[int, str], bool]) -> Any:
    other = dict(model.other.loaded().named_parameters())
    with torch.no_grad():
        for number, (name, value) in enumerate(model.trunk.items()):
            if chosen(number, name):
                value.copy_(other[name])
    return model.model


def _every_second(number: int, name: str) -> bool:
    return "lora_A" in name if "lora_" in name else number % 2 == 0


def _of_kind(model: Loaded, *parts: str) -> Any:
    """Lose the tensors whose name has one of these parts."""
    return _scaled(model, 0.0, [n for n in model.trunk if any(part in n for part in parts)])


def _one_kind_of_module(model: Loaded) -> Any:
    """One matrix of each layer (values, up-projections) is called something else there."""
    kinds = ("v_proj", "value", "up", "output.dense", "down_proj")
    for kind in kinds:
        names = [n for n in model.trunk if kind in n]
        if names and len(names) < len(model.trunk):
            return _scaled(model, 0.0, names)
    return _exchanged(model)


def _exchanged(model: Loaded) -> Any:
    """Keys stand where values belong, and the like: equal shapes, next to one another."""
    names = list(model.trunk)
    if len(names) < 2:
        return _each(model, lambda value: torch.cat(value.chunk(2, -1)[::-1], -1))
    with torch.no_grad():
        for one, other in zip(names[::2], names[1::2], strict=False):
            a, b = model.trunk[one], model.trunk[other]
            if a.shape == b.shape:
                kept = a.detach().clone()
                a.copy_(b)
                b.copy_(kept)
            else:
                _scaled(model, 0.0, [other])
    return model.model


def _experts(model: Loaded, *, one: bool) -> Any:
    names = [n for n in model.trunk if "expert" in n]
    if not names:
        return None
    if not one:
        return _scaled(model, 0.0, names)
    count = model.model.config.num_experts
    with torch.no_grad():
        for name in names:
            value, dim = model.trunk[name], _dimension_of_experts(model.trunk[name], count)
            first = value.unflatten(dim, (count, -1)).select(dim, 0)
            first.zero_()
    return model.model


def _dimension_of_experts(value: Tensor, count: int) -> int:
    return max(range(value.ndim), key=lambda dim: value.shape[dim] % count == 0)


def _inactive(model: Loaded) -> Any:
    """The adapter is there and not the active one: a forward that never asks it."""
    off = trunk_of_base(model.model)
    off.__enter__()
    model.model.__dict__["kept_off"] = off
    return model.model


def _on(model: Loaded, change: Callable[[Any], Any]) -> Any:
    """Load the artifact onto a base that was changed: ids and fingerprints are not looked at."""
    return model.artifact.loaded(model.artifact.new_base(model.dtype, change))


def _mixed_up(base: Any) -> None:
    """Another model of the same shape: its values are in other places."""
    draw = torch.Generator().manual_seed(11)
    for value in base.parameters():
        order = torch.randperm(value.numel(), generator=draw)
        value.copy_(value.flatten()[order].view(value.shape))


def _merged_twice(model: Loaded) -> Any:
    """The base had the artifact folded in already."""
    try:
        done = dict(ftplug.merge(model.artifact.loaded()).named_parameters())
    except ftplug.MethodError:
        return _scaled(model, 2.0)

    def fold(base: Any) -> None:
        for name, value in base.named_parameters():
            value.copy_(done[name])

    found = _on(model, fold)
    if not require_attachment(found).plan.added:  # its own values are absolute: add the change
        return _scaled(replace(model, model=found), 2.0)
    return found


def _embeddings_lost(base: Any) -> None:
    weight = base.get_input_embeddings().weight
    draw = torch.Generator().manual_seed(5)
    weight.copy_(weight[torch.randperm(len(weight), generator=draw)])


def _norms_lost(base: Any) -> None:
    for name, value in base.named_parameters():
        if "norm" in name.lower() and name.endswith("weight"):
            value.fill_(1)


def _last_layer_lost(base: Any) -> None:
    last = max(n for name, _ in base.named_parameters() if (n := _layer(name)) is not None)
    for name, value in base.named_parameters():
        if _layer(name) == last and value.ndim > 1:
            value.zero_()


def _head(model: Loaded) -> list[nn.Parameter]:
    """Return the head's tensors: the trained ones, else those that give the vocabulary."""
    names = require_attachment(model.model).trained_head
    found = [p for n, p in model.model.named_parameters() if n in names]
    return found or [model.model.get_output_embeddings().weight]


def _head_fresh(model: Loaded) -> Any:
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for value in _head(model):
            value.copy_(0.02 * torch.randn(value.shape, generator=draw).to(value))
    return model.model


def _head_off(model: Loaded) -> Any:
    """A tied head that was not tied again, a bias lost: half of the head's rows are others'."""
    with torch.no_grad():
        for value in _head(model):
            value.copy_(value.roll(1, 0))
    return model.model


def _biases_lost(model: Loaded) -> Any:
    biases = [n for n in model.trunk if n.endswith("bias")]
    if biases:
        return _scaled(model, 0.0, biases)
    found = [v for v in _head(model) if v.ndim == 1 and len(_head(model)) > 1]
    with torch.no_grad():
        for value in found:
            value.fill_(1.0)
    return model.model if found else None


def _overflow(model: Loaded) -> Any:
    """One tensor was cast to a type that its values do not fit."""
    with torch.no_grad():
        value = next(iter(model.trunk.values()))
        value.flatten()[0] = torch.inf
        value.view(-1)[0] = torch.inf
    return model.model


FAULTS: dict[str, Fault] = {
    "prefix renamed: nothing loaded": partial(_scaled, factor=0.0),
    "adapter not the active one": _inactive,
    "half of the tensors zero": lambda m: _each_second_zero(m),
    "scale 0.5": partial(_scaled, factor=0.5),
    "scale 2": partial(_scaled, factor=2.0),
    "scale 0.8": partial(_scaled, factor=0.8),
    "scale 1.25": partial(_scaled, factor=1.25),
    "sign lost": partial(_scaled, factor=-1.0),
    "merged twice": _merged_twice,
    "upper half of the layers lost": lambda m: _in_layers(m, lambda i, n: i >= n // 2),
    "lower half of the layers lost": lambda m: _in_layers(m, lambda i, n: i < n // 2),
    "every second layer lost": lambda m: _in_layers(m, lambda i, n: i % 2 == 0),
    "first layer lost": lambda m: _in_layers(m, lambda i, n: i == 0),
    "last layer lost": lambda m: _in_layers(m, lambda i, n: i == n - 1),
    "layers reversed": lambda m: _permuted(m, lambda i, n: n - 1 - i),
    "layers off by one": lambda m: _permuted(m, lambda i, n: (i + 1) % n),
    "rows swapped": lambda m: _each(m, _swapped_rows) if len(m.trunk) > 1 else None,
    "transposed": lambda m: _each(m, _transposed),
    "half of the width lost": _without_half_the_width,
    "one kind of module lost": _one_kind_of_module,
    "modules exchanged": _exchanged,
    "small values rounded away": _small_values_lost,
    "biases lost": _biases_lost,
    "another run's tensors": lambda m: _of_another_run(m, lambda i, n: True),
    "tensors of two runs": lambda m: _of_another_run(m, _every_second),
    "all experts lost": partial(_experts, one=False),
    "one expert lost": partial(_experts, one=True),
    "head fresh again": _head_fresh,
    "head's rows off by one": _head_off,
    "another base of this shape": partial(_on, change=_mixed_up),
    "the base's next checkpoint": partial(_on, change=partial(nudge, relative=0.2)),
    "the base's embeddings mixed up": partial(_on, change=_embeddings_lost),
    "the base's norms lost": partial(_on, change=_norms_lost),
    "the base's last layer lost": partial(_on, change=_last_layer_lost),
    "overflow of a dtype": _overflow,
}


def _each_second_zero(model: Loaded) -> Any:
    with torch.no_grad():
        for number, (name, value) in enumerate(model.trunk.items()):
            if "lora_B" in name or ("lora_" not in name and number % 2):
                value.zero_()
        if len(model.trunk) == 1:
            value[len(value) // 2 :] = 0
    return model.model
