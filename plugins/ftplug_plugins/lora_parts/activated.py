"""aLoRA: the update works only from the last invocation sequence of a row on.

https://arxiv.org/abs/2504.12397. Where it begins is found by the stack of layers, which reads the
tokens, and kept for its layers until the next call: activation checkpointing runs them again. A
call that goes on from a filled cache goes on with it; where there was none yet, the call's own
tokens may hold it, as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ftplug import MethodError, structure
from ftplug.inplace import wrap_forward
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.virtual.positions import is_causal, named

if TYPE_CHECKING:
    from torch import Tensor, nn

_OFFSETS = "alora_offsets"


def check(model: nn.Module) -> None:
    """Refuse what does not read tokens from left to right."""
    if not (is_causal(model) and structure.is_language_model(model)):
        raise MethodError(
            f"alora: its invocation tokens need a decoder-only language model, not a "
            f"{type(model).__name__}: use lora"
        )


def activate(model: nn.Module) -> None:
    """Let the stack of layers find the invocation, and every layer start from there."""
    stack: Any = structure.backbone(model).get_decoder()  # OPT's head calls no more than that
    invocation: dict[str, Any] = {"tokens": peft_files.config_of(model).alora_invocation_tokens}
    stack.__dict__[_OFFSETS] = invocation
    wrap_forward(stack, _find)
    for _, layer in peft_files.tuner_layers(model):
        layer.__dict__[_OFFSETS] = invocation
        wrap_forward(layer, _from_there)


def _find(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    arguments, invocation = named(forward, args, kwargs), stack.__dict__[_OFFSETS]
    tokens, cache = arguments.get("input_ids"), structure.given_cache(arguments)
    if tokens is None:
        raise MethodError("alora: needs input_ids to find its invocation tokens")
    before = [None] * len(tokens)  # by row: how many of its last tokens are adapted
    if cache is not None and cache.get_seq_length() > 0:
        before = invocation.get(_OFFSETS) or []
    if len(before) != len(tokens):
        raise MethodError("alora: goes on from a cache of other rows than it read last")
    here = _offsets(tokens, invocation["tokens"]) if None in before else before
    invocation[_OFFSETS] = [
        now if earlier is None else tokens.shape[1]
        for earlier, now in zip(before, here, strict=True)
    ]
    return forward(**arguments)


def _offsets(tokens: Tensor, invocation: Sequence[int]) -> list[int | None]:
    """Return for each row how many of its tokens the last invocation in it begins, or None."""
    from peft.tuners.lora.variants import calculate_alora_offsets

    if tokens.shape[1] < len(invocation):  # a step of generation: do not wait for the device
        return [None] * len(tokens)
    search: Any = calculate_alora_offsets  # reads this one setting of a config
    config = SimpleNamespace(alora_invocation_tokens=invocation)
    found: list[int | None] = search({"": config}, "", tokens)
    return found


def _from_there(layer: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs, alora_offsets=layer.__dict__[_OFFSETS].get(_OFFSETS))
