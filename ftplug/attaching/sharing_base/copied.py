"""The second model object over a base's memory, or in one line why there cannot be one."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftplug import structure
from ftplug.attaching.changing import changes_model
from ftplug.attaching.holders import refuse_held
from ftplug.attaching.sharding import is_offloaded, is_sharded
from ftplug.attaching.sharing_base.checking import watch_optimizers
from ftplug.attaching.sharing_base.held import functions_of, not_copied_with
from ftplug.attaching.sharing_base.shared import note_copy, shared_by
from ftplug.base.quantization import is_quantized
from ftplug.context import logger
from ftplug.errors import MethodError, one_line

if TYPE_CHECKING:
    from torch import nn

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")


def shell_of(base: Any, artifact: Path, *, plain: bool) -> nn.Module:
    """Return the model that an artifact is to be put on; ``plain`` is one that ftplug did not make.

    Raises :class:`MethodError` where the two cannot share.
    """
    if isinstance(base, str | os.PathLike):
        raise MethodError(
            f"share_base: {str(base)!r} is loaded anew each time: give the model, loaded once"
        )
    if plain:
        raise MethodError(
            f"share_base: {artifact} is an adapter that ftplug did not make, which peft puts into "
            "the base itself: load it on a base of its own (copy.deepcopy(base))"
        )
    return over_the_same_memory(base)


def say_if_nothing_is_shared(model: nn.Module, artifact: Path) -> None:
    """Say that an artifact holds every tensor of its base."""
    if shared_by(model) is None:
        logger.warning("%s: has all of the base trained: nothing of it is shared", artifact)


@changes_model
def over_the_same_memory(base: nn.Module) -> nn.Module:
    """Return a model whose parameters are its own objects over the memory of those of ``base``.

    Modules, buffers, config and ``requires_grad`` are its own; what is tied in the base is tied
    within the copy. The base stays as it is. Raises :class:`MethodError` where it carries a method,
    or where a copy would run the base's modules, or its weights cannot be shared.
    """
    _refuse(base)
    memo: dict[int, Any] = {}
    for parameter in base.parameters():
        memo[id(parameter)] = _twin(parameter, memo)
    try:
        copied = copy.deepcopy(base, memo)
    except Exception as error:  # whatever a stranger's module does when copied
        raise MethodError(
            f"share_base: this {type(base).__name__} cannot be copied: {one_line(error)}: load the "
            "artifact on a base of its own"
        ) from error
    note_copy(copied, base)
    watch_optimizers()
    return copied


def _twin(parameter: nn.Parameter, memo: dict[int, Any]) -> nn.Parameter:
    """Return a parameter of its own over the memory of another one."""
    from torch import nn

    if _is_4bit(parameter):
        return cast("nn.Parameter", _twin_of_4bit(parameter, memo))
    # By .data each counts its own writes: one that has memory of its own by then may be written.
    twin = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
    vars(twin).update(vars(parameter))  # what transformers notes: that it was in the checkpoint
    return twin


def _twin_of_4bit(parameter: Any, memo: dict[int, Any]) -> Any:
    """Return a 4-bit weight over the memory of another one, which each can move or repack."""
    twin, state = copy.copy(parameter), copy.copy(parameter.quant_state)
    if getattr(state, "state2", None) is not None:
        state.state2 = copy.copy(state.state2)
    twin.quant_state, twin.module = state, None  # it is quantized: no layer has to be told
    vars(twin).update({n: v for n, v in vars(parameter).items() if n not in vars(twin)})
    memo[id(parameter.quant_state)] = state  # the layer has it too
    return twin


def _is_4bit(parameter: Any) -> bool:
    """Whether it is a weight that bitsandbytes has quantized to 4 bits."""
    kind = type(parameter)
    ours = kind.__name__ == "Params4bit" and kind.__module__.startswith("bitsandbytes.")
    return ours and parameter.quant_state is not None


def _refuse(base: nn.Module) -> None:
    """Refuse a base that is not bare, or that is in more than plain memory."""
    kind = type(base).__name__
    try:
        refuse_held(base)
    except MethodError as error:
        raise MethodError(f"share_base: the base must be bare: {error}") from error
    for name, module in base.named_modules():
        if reason := _not_bare(module):
            raise MethodError(f"share_base: {name or kind} {reason}")
    if is_offloaded(base):
        raise MethodError(
            f"share_base: this {kind} is offloaded (device_map=), and loads its weights as it "
            "runs: load the base onto one device"
        )
    if is_sharded(base):
        raise MethodError(
            f"share_base: this {kind} is divided among processes (FSDP, ZeRO): load the base whole"
        )
    _refuse_weights(base, kind)
    _refuse_closures(base, kind)


def _not_bare(module: nn.Module) -> str | None:
    if "_orig_mod" in module._modules:
        return "is compiled (torch.compile): give the model inside it, and compile what is loaded"
    if getattr(module, "_compiled_call_impl", None) is not None:
        return "is compiled (Module.compile): load the base again, and compile what is loaded"
    if "_hf_hook" in module.__dict__:
        return (
            "has a hook of accelerate (device_map=, offloading), which moves the base's own "
            "weights: load the base onto one device without"
        )
    if type(module).__name__ in _WRAPPERS:
        return "is wrapped for several processes: give the model inside it"
    return None


def _refuse_weights(base: nn.Module, kind: str) -> None:
    """Refuse weights without memory, and quantized ones that a forward writes to."""
    import torch
    from torch import nn

    few_bits = 0
    for name, parameter in base.named_parameters():
        if parameter.is_inference():
            raise MethodError(
                f"share_base: {name} of this {kind} was made within torch.inference_mode(), where "
                "no write is counted: load the base outside of that"
            )
        if parameter.is_meta:
            raise MethodError(f"share_base: {name} of this {kind} is on the meta device: no values")
        few_bits += _is_4bit(parameter)
        plain = type(parameter) is nn.Parameter and type(parameter.data) is torch.Tensor
        if not plain and not _is_4bit(parameter):
            raise MethodError(
                f"share_base: {name} of this {kind} is of {type(parameter).__name__}: of quantized "
                "weights those of 4 bits by bitsandbytes alone can be shared: load the artifact on "
                "a base of its own"
            )
    if is_quantized(structure.pretrained(base)) and not few_bits:
        raise MethodError(
            f"share_base: this {kind} is quantized, and not to 4 bits by bitsandbytes: its weights "
            "would be copied: load the artifact on a base of its own"
        )


def _refuse_closures(base: nn.Module, kind: str) -> None:
    """Refuse functions that hold a part of the base: a copy would run that one."""
    own = {id(part) for part in (*base.modules(), *base.parameters(), *base.buffers())}
    for name, module in base.named_modules():
        for attribute, function in functions_of(module):
            if any(id(held) in own for held in not_copied_with(function)):
                raise MethodError(
                    f"share_base: {attribute} of {name or kind} is a function that holds a part of "
                    "this base, which a copy would run: patch the class, or load the artifact on a "
                    "base of its own"
                )
