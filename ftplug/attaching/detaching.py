"""Taking the methods of a model off: the base is there again, to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftplug.attaching.attachment import Attachment, attachment_of, forget, unwrap_model
from ftplug.attaching.disabling import refuse_disabled
from ftplug.attaching.holders import (
    ATTRIBUTE,
    holder_around,
    is_ours,
    refuse_to_take_off_shared,
    was_merged,
)
from ftplug.attaching.sharding import is_offloaded, is_sharded
from ftplug.attaching.undoing import UNDO, Undo
from ftplug.base.fingerprint import fingerprint
from ftplug.errors import MethodError
from ftplug.host import Host
from ftplug.structure import named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

# What accelerate leaves on a model that it prepared, mixed precision's forward among it.
_PREPARED = ("_is_accelerate_prepared", "_original_forward")


def detach_model(model: nn.Module, *, trainer: Any = None) -> nn.Module:
    """Take the methods of a model off, in place, and return it: the base as it was given.

    What others put on it meanwhile (hooks, attributes) stays. ``trainer`` is the one that trains
    it, where that is being detached. Raises :class:`MethodError`, with the model untouched, where
    the base cannot be given back exactly.
    """
    attached = _require_attached(model)
    undo: Undo = model.__dict__[UNDO]
    names = attached.host.names
    _refuse(model, attached, trainer)
    if dispute := undo.dispute(model):
        raise MethodError(
            f"detach: {dispute} since {names} came, and not by it: undo that first, or load a "
            "fresh base"
        )
    values = _original_values(model, attached, undo)
    _require_base(attached, undo.parameters(model), values)
    _take_off_transient(model, attached)
    _stop_listening(model, attached)
    _write(model, attached.original_values.kept)
    undo.take_back(model, values)
    _forget_preparation(model, undo)
    forget(model)
    for parameter in model.parameters():
        parameter.grad = None
    return model


def _require_attached(model: nn.Module) -> Attachment:
    if (inner := unwrap_model(model)) is not model:
        raise MethodError(
            f"detach: give it the {type(inner).__name__} inside of this {type(model).__name__}, "
            "and wrap that again afterwards"
        )
    if (attached := attachment_of(model)) is not None:
        return attached
    if was_merged(model):
        raise MethodError(
            f"detach: this {type(model).__name__} was merged: its own weights hold what was "
            "learned: load a fresh base"
        )
    kind = type(model).__name__
    if (holder := holder_around(model)) is not None:
        raise MethodError(
            f"detach: this {kind} is a part of a {type(holder).__name__} that carries "
            f"{holder.__dict__[ATTRIBUTE].host.names}: give detach that"
        )
    for name, part in model.named_modules():
        if (within := part.__dict__.get(ATTRIBUTE)) is not None:
            raise MethodError(
                f"detach: {name} of this {kind} carries {within.host.names}: give detach that"
            )
        if type(part).__module__.startswith("peft."):
            raise MethodError(
                f"detach: this {kind} carries an adapter that peft put there, and no method of "
                "ftplug: peft takes it off (PeftModel.unload())"
            )
    raise MethodError(f"detach: this {kind} carries no ftplug method: it is plain")


def _refuse(model: nn.Module, attached: Attachment, trainer: Any) -> None:
    """Refuse where something else than this process, and this call, has a hold on the model."""
    refuse_disabled(model, "detach")
    names = attached.host.names
    owner = getattr(attached.facts.surroundings, "trainer", None)
    if owner is not None and owner is not trainer:
        raise MethodError(
            f"detach: a {type(owner).__name__} trains this model with {names}: give detach that "
            "Trainer"
        )
    if is_sharded(model):
        raise MethodError(
            f"detach: {names}: this process holds shards alone (FSDP, ZeRO-3): save the artifact "
            "and start a new process with a fresh base"
        )
    if any(module.__dict__.get("_compiled_call_impl") for module in model.modules()):
        raise MethodError(
            f"detach: {names}: the model is compiled (model.compile()), and what was compiled has "
            "the method in it: load a fresh base"
        )
    if is_offloaded(model):
        raise MethodError(
            f"detach: {names}: a part of the model is offloaded, where its values are not at hand: "
            "load a fresh base"
        )
    refuse_to_take_off_shared(model)


def _original_values(model: nn.Module, attached: Attachment, undo: Undo) -> dict[str, Tensor]:
    """Complete the original values; return those of parameters that left the model, by name."""
    elsewhere = {name for name, known in undo.lost.items() if known.value is None}
    values = attached.original_values.exactly(model, elsewhere)
    for name, known in undo.lost.items():
        if known.value is not None:
            values[name] = known.value
        elif not known.agrees_with(values[name]):
            raise MethodError(
                f"detach: {name} began as other values than the base's checkpoint gives: load the "
                "base again"
            )
    live = named_tensors(model)
    if gone := [name for name in attached.original_values.kept if name not in live]:
        raise MethodError(f"detach: {gone[0]} is no longer in the model: load a fresh base")
    return values


def _require_base(
    attached: Attachment, own: Mapping[str, Tensor], lost: Mapping[str, Tensor]
) -> None:
    """Refuse where something frozen was written over: nothing remembers what that was."""
    if attached.base.fingerprint is None:
        return
    kept = attached.original_values.kept
    trained = {old: kept[name] for name, old in attached.plan.existing.items() if name in kept}
    values = {**own, **lost, **trained}
    fresh = attached.base.fresh
    now = fingerprint({n: value.detach() for n, value in values.items() if n not in fresh})
    if now is not None and not now.matches(attached.base.fingerprint):
        raise MethodError(
            f"detach: weights of the base that {attached.host.names} does not train are no longer "
            f"those it was put on ({now}, not {attached.base.fingerprint}): load a fresh base"
        )


def _take_off_transient(model: nn.Module, attached: Attachment) -> None:
    """Let methods that a later Trainer may have put on undo themselves."""
    transient = Host([method for method in attached.host.methods if method.transient])
    transient.views = attached.facts.views(attached.host)
    transient.call("merge_model", model=model)


def _stop_listening(model: nn.Module, attached: Attachment) -> None:
    """Remove the hooks that wait for the first backward pass; a copy has the forward's alone."""
    if attached.first_backward and attached.first_backward.listens_to(model):
        attached.first_backward.stop()
    for key in [key for key, hook in model._forward_hooks.items() if is_ours(hook)]:
        del model._forward_hooks[key]


def _write(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Give tensors new memory with these values: whoever kept a trained one keeps what it holds."""
    import torch

    live = named_tensors(model)
    for name, value in kept.items():
        live[name].data = value.detach().to(live[name].device, live[name].dtype, copy=True)
    torch.clear_autocast_cache()  # it holds casts of what went


def _forget_preparation(model: nn.Module, undo: Undo) -> None:
    """Remove accelerate's mark and its forward, which has the method in it, if they came later."""
    own = vars(model)
    if "_original_forward" in own and "_original_forward" not in undo.named:
        own.pop("forward", None)
    for name in _PREPARED:
        if name not in undo.named:
            own.pop(name, None)
