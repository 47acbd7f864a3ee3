"""Copies of models without weights: rehearsals and questions of shape cost no memory on them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ftplug.structure.shards import is_partitioned, shape_of

if TYPE_CHECKING:
    from torch import nn

_PLAIN = (bool, int, float, str, type(None))


def weightless_copy(model: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters and buffers live on the meta device."""
    import torch
    from torch import nn

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        if is_partitioned(parameter):
            meta = torch.empty(shape_of(parameter), dtype=parameter.dtype, device="meta")
        else:
            meta = torch.empty_like(parameter, device="meta")
        weightless = nn.Parameter(meta, requires_grad=parameter.requires_grad)
        if not is_partitioned(parameter):
            vars(weightless).update(_said_of(parameter))
        memo[id(parameter)] = weightless
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)


def _said_of(parameter: nn.Parameter) -> dict[str, Any]:
    """Return what a quantized parameter says of itself: peft's layers ask it."""
    return {key: value for key, value in vars(parameter).items() if isinstance(value, _PLAIN)}
