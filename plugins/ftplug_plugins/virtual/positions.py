"""Positions of virtual tokens, as a wrapped forward deals with them.

The caller counts its own tokens alone: masks are lengthened, limits are checked and the output is
returned in the form that was asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ftplug import MethodError, structure
from ftplug_plugins.virtual.placement import placement_of

if TYPE_CHECKING:
    from torch import nn

_POSITION_EMBEDDINGS = ("position_embeddings", "embed_positions", "wpe")  # learned, absolute


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model has one stack of layers for its input and one for its output.

    Its config alone does not tell: that of UMT5's encoder by itself says so as well.
    """
    trunk = structure.backbone(model)
    return (
        bool(getattr(trunk.config, "is_encoder_decoder", False))
        and trunk.get_decoder() is not trunk
    )


def is_causal(model: nn.Module) -> bool:
    """Whether a token sees only those before it: what has a masked-LM class is an encoder."""
    from transformers.models.auto import modeling_auto as auto

    trunk = structure.backbone(model)
    kind = trunk.config.model_type
    if getattr(trunk.config, "is_decoder", False) or is_encoder_decoder(model):
        return not is_encoder_decoder(model)
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return False
    marked = any(getattr(module, "is_causal", False) for module in trunk.modules())
    return kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or marked


def accepts(module: nn.Module, *arguments: str) -> bool:
    """Whether the module's forward takes all these arguments by name."""
    return set(arguments) <= set(inspect.signature(module.forward).parameters)


def learned_positions(stack: nn.Module) -> int | None:
    """Return how many positions a stack with learned ones has; None where any number will do."""
    for name, module in stack.named_modules():
        if name.rpartition(".")[2] in _POSITION_EMBEDDINGS and hasattr(module, "num_embeddings"):
            padding = getattr(module, "padding_idx", None)  # RoBERTa counts from padding_idx + 1,
            offset = getattr(module, "offset", 0)  # BART and OPT from 2
            return int(module.num_embeddings) - max(offset, 0 if padding is None else padding + 1)
    return None


def check_length(stack: nn.Module, length: int) -> None:
    """Refuse an input that leaves the virtual tokens no position (an opaque error on a GPU)."""
    placement = placement_of(stack)
    count, room = placement.count, placement.positions
    if room is not None and length + count > room:
        raise MethodError(
            f"virtual tokens: {length} tokens and {count} virtual ones need {length + count} "
            f"positions, {type(stack).__name__} has {room}: truncate inputs to {room - count}"
        )


def named(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> dict[str, Any]:
    """Return a call's arguments by name."""
    if not args:
        return dict(kwargs)
    return {**inspect.signature(forward).bind_partial(*args).arguments, **kwargs}


def continues(arguments: Mapping[str, Any]) -> bool:
    """Whether the call goes on from a filled cache, which has the virtual tokens already."""
    cache = structure.given_cache(arguments)
    if cache is None:
        return False
    if getattr(cache, "is_compileable", False):
        raise MethodError(
            "virtual tokens: a static cache has no room for them: generate with the dynamic cache"
        )
    return bool(cache.get_seq_length() > 0)


def lengthen_mask(arguments: dict[str, Any], name: str, count: int) -> None:
    """Let every token attend to ``count`` more positions in front, if there is a mask."""
    import torch

    mask = arguments.get(name)
    if mask is None:
        return
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
        raise MethodError(f"virtual tokens: {name} must be (batch, length) to be lengthened")
    arguments[name] = torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)


def is_packed(arguments: Mapping[str, Any]) -> bool:
    """Whether rows hold several sequences: transformers then masks by position_ids that restart."""
    positions = arguments.get("position_ids")
    if positions is None or arguments.get("attention_mask") is not None:
        return False
    return positions.shape[-1] > 1 and bool((positions.diff(dim=-1) < 0).any())


def refuse_packing(arguments: Mapping[str, Any]) -> None:
    """Refuse rows of several sequences: virtual tokens would stand before the first alone."""
    if is_packed(arguments):
        raise MethodError(
            "virtual tokens: packed rows (position_ids that start again): use a collator that pads"
        )


def changed_output(
    module: Any,
    forward: Callable[..., Any],
    arguments: dict[str, Any],
    change: Callable[[Any], None],
) -> Any:
    """Run ``forward``, change its output by name, and return it in the form that was asked for."""
    as_dict = arguments.get("return_dict")
    if as_dict is None:
        as_dict = getattr(module.config, "return_dict", True)
    output = forward(**{**arguments, "return_dict": True})
    change(output)
    return output if as_dict else output.to_tuple()
