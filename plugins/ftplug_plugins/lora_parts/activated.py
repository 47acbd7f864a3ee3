"""aLoRA: the update works only from the last invocation sequence of a row on.

https://arxiv.org/abs/2504.12397. Where it begins is found by the backbone, which reads the tokens,
and kept for its layers until the next call: activation checkpointing runs them again, and a call
that goes on from a filled cache goes on with it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ftplug import MethodError, structure
from ftplug.inplace import wrap_forward
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.virtual.positions import is_causal, named

if TYPE_CHECKING:
    from torch import nn

_OFFSETS = "alora_offsets"


def check(model: nn.Module) -> None:
    """Refuse what does not read tokens from left to right."""
    if not (is_causal(model) and structure.is_language_model(model)):
        raise MethodError(
            f"alora: its invocation tokens need a decoder-only language model, not a "
            f"{type(model).__name__}: use lora"
        )


def activate(model: nn.Module) -> None:
    """Let the backbone find the invocation, and every layer start from there."""
    stack = structure.backbone(model)
    invocation: dict[str, Any] = {"tokens": peft_files.config_of(model).alora_invocation_tokens}
    stack.__dict__[_OFFSETS] = invocation
    wrap_forward(stack, _find)
    for _, layer in peft_files.tuner_layers(model):
        layer.__dict__[_OFFSETS] = invocation
        wrap_forward(layer, _from_there)


def _find(stack: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    from peft.tuners.lora.variants import calculate_alora_offsets

    arguments, invocation = named(forward, args, kwargs), stack.__dict__[_OFFSETS]
    tokens, cache = arguments.get("input_ids"), structure.given_cache(arguments)
    if tokens is None:
        raise MethodError("alora: needs input_ids to find its invocation tokens")
    if cache is None or cache.get_seq_length() == 0:
        search: Any = calculate_alora_offsets  # reads this one setting of a config
        config = SimpleNamespace(alora_invocation_tokens=invocation["tokens"])
        invocation[_OFFSETS] = search({"": config}, "", tokens)
    elif len(invocation.get(_OFFSETS) or ()) != len(tokens):
        raise MethodError("alora: goes on from a cache of other rows than it read last")
    return forward(**arguments)


def _from_there(layer: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs, alora_offsets=layer.__dict__[_OFFSETS].get(_OFFSETS))
