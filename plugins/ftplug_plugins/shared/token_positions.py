"""Positions of the first and last tokens of a batch, read from a transformer layer's arguments.

The layer's own arguments say it, so that nothing has to be remembered between two forwards: copies,
replicas and recomputed activations find the same tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.structure import given_cache

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def first_and_last(
    given: Mapping[str, Any], layer: int, first: int, last: int
) -> tuple[Tensor, Tensor]:
    """Return where the first and last tokens are, both (batch, first + last).

    The first tensor indexes the tokens of ``hidden_states``; the second is False where there is no
    such token: in a row that is too short, or already in the cache. No token is there twice.
    """
    import torch

    hidden_states: Tensor = next(iter(given.values()))
    batch, length, _ = hidden_states.shape
    device = hidden_states.device
    past = cached_length(given, layer)
    real = unpadded(given.get("attention_mask"), batch, past + length, device)  # (batch, keys)
    keys = torch.arange(real.shape[1], device=device)
    start = torch.where(real, keys, real.shape[1]).amin(1, keepdim=True)
    end = torch.where(real, keys, -1).amax(1, keepdim=True)
    low = start + torch.arange(first, device=device)
    high = end - torch.arange(last, device=device)
    there = torch.cat([low <= end, high >= start + first], dim=1)
    places = torch.cat([low, high], dim=1) - past
    return places.clamp(0, length - 1), there & (places >= 0) & (places < length)


def arguments(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a layer is given, by name."""
    bound: dict[str, Any] = dict(inspect.signature(layer.forward).bind(*args, **kwargs).arguments)
    return {**bound, **bound.get("kwargs", {})}


def cached_length(given: Mapping[str, Any], layer: int) -> int:
    """Return how many tokens the layer read in earlier calls: generation goes on behind them."""
    cache = given_cache(given)
    return int(cache.get_seq_length(layer)) if cache is not None else 0


def unpadded(mask: Any, batch: int, keys: int, device: torch.device) -> Tensor:
    """Return (batch, keys), True for tokens: what any query may look at, in the mask of a layer.

    A mask is None (no padding), (batch, keys), or (batch, 1, queries, keys) of booleans or of
    numbers that are added to the scores. That of a layer with a sliding window has the last keys
    alone: those before are padding where the first of these is, since padding is on the left then.
    """
    import torch

    if mask is None:
        return torch.ones(batch, keys, dtype=torch.bool, device=device)
    if not isinstance(mask, torch.Tensor):
        raise MethodError(
            f"reft: cannot read an attention mask of type {type(mask).__name__}: load the model "
            "with attn_implementation='sdpa'"
        )
    if mask.ndim > 2:
        seen = mask if mask.dtype == torch.bool else mask == 0
        mask = seen.flatten(1, -2).any(1)
    mask = mask.bool().expand(batch, -1)
    out_of_sight = max(keys - mask.shape[1], 0)
    return torch.cat([mask[:, :1].expand(-1, out_of_sight), mask], dim=1)
