"""Comparisons of the checks: logits, weights to the last bit, gradients that must be zero."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ftplug.structure import named_tensors
from ftplug.testing import tiny

SEED = 7


def base_model(family: str, *, dropout: float = 0.0) -> Any:
    """Return a family's tiny model, always with the same values, in eval mode.

    Its biases and norms are not the zeros and ones of a fresh model, which hide a forgotten bias.
    """
    model = tiny.FAMILIES[family](dropout=dropout)
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    return model


def logits(model: nn.Module, batch: Any = None) -> Tensor:
    """Return what the model answers in eval mode; its mode afterwards is what it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    with torch.no_grad():
        scores: Tensor = model(**(batch or _batch_for(model))).logits
    for module in training:
        module.training = True
    return scores


def _batch_for(model: Any) -> dict[str, Tensor]:
    return {name: value.to(model.device) for name, value in tiny.inputs(model).items()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all parameters and persistent buffers."""
    live = named_tensors(model)
    return {name: value.detach().clone() for name, value in live.items()}


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that is not bit-equal in both, or None."""
    names = [*first, *(name for name in second if name not in first)]
    for name in names:
        one, other = first.get(name), second.get(name)
        if one is None or other is None or not torch.equal(one, other):
            return name
    return None


def gap(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference; infinite where the shapes differ."""
    if first.shape != second.shape:
        return float("inf")
    return float((first - second).abs().max())


def shake(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Move every trainable tensor, as training would."""
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=draw).to(parameter))
    return model


@functools.cache
def without_gradient(family: str) -> frozenset[str]:
    """Return the base's parameters whose gradient the mathematics makes zero.

    A key's bias shifts all scores of a row alike, and softmax takes that away. In double precision
    what is left of such a gradient is far below that of any other tensor.
    """
    model = base_model(family).double().train()
    batch = tiny.inputs(model)
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}
    model(**batch).loss.backward()
    names = {n for n, p in model.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-14}
    return frozenset(names)
