"""Which model holds a module already, and what its user can do about it.

A model that carries a method may share a part with another one (two heads on one encoder). What a
method put into that part, or trains of it, belongs to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ftplug.errors import MethodError
from ftplug.inplace import is_wrapped

if TYPE_CHECKING:
    from torch import nn

    from ftplug.host import Host

ATTRIBUTE = "_ftplug"  # of a model: what is attached to it
LEAVE_OUT = "leave that out and give ftplug the base, or merge_and_unload() to keep what it learned"

_holders: WeakSet[nn.Module] = WeakSet()
_merged: WeakSet[nn.Module] = WeakSet()


def alive(models: WeakSet[nn.Module]) -> list[nn.Module]:
    """Return the models of a set that other threads may add to meanwhile."""
    while True:
        try:
            return list(models)
        except RuntimeError:  # one was added as it was read
            continue


def holds(model: nn.Module) -> None:
    """Note a model that carries a method now."""
    _holders.add(model)
    _merged.discard(model)


def note_merged(model: nn.Module) -> None:
    """Note a plain model whose weights hold what a method learned."""
    _merged.add(model)


def was_merged(model: nn.Module) -> bool:
    """Whether a method was folded into the model, and none was put on it since."""
    return model in _merged


def no_longer_holds(model: nn.Module) -> None:
    """Note that a model is plain again."""
    _holders.discard(model)


def holder_around(model: nn.Module) -> nn.Module | None:
    """Return a model that carries a method, of which this one is a part."""
    others = _others(model)
    return next((one for one in others if any(part is model for part in one.modules())), None)


def is_ours(value: Any) -> bool:
    """Whether an attribute is what ftplug put there: a function, a bound method or a partial."""
    function = getattr(value, "__func__", getattr(value, "func", value))
    return str(getattr(function, "__module__", "")).startswith("ftplug.")


def refuse_held(model: nn.Module, without_adapters: str = LEAVE_OUT) -> None:
    """Refuse a model that has no method of its own, but carries one or a peft adapter within.

    ``without_adapters`` says what to do about an adapter of the script's own.
    """
    for name, module in model.named_modules():
        if ATTRIBUTE in module.__dict__:
            raise MethodError(
                f"{name or type(model).__name__} already carries a method ({_methods(module)}): "
                "apply all methods at once, to the outermost model"
            )
    for holder in _others(model):
        if _holds_within(holder, model):
            _refuse_shared(model, holder)
    for name, module in model.named_modules():
        if is_wrapped(module) or is_ours(module.__dict__.get("save_pretrained")):
            raise MethodError(
                f"{name or type(model).__name__} already carries a method that ftplug put on "
                "another model, or on the one it was copied from: load a fresh base, or "
                "ftplug.merge that model first"
            )
    _refuse_adapters(model, without_adapters)


def _refuse_adapters(model: nn.Module, way_out: str) -> None:
    adapted = any(type(module).__module__.startswith("peft.") for module in model.modules())
    if adapted or getattr(model, "_hf_peft_config_loaded", False):
        raise MethodError(
            f"{type(model).__name__} already carries a peft adapter of the script's own "
            f"(get_peft_model, add_adapter, or a trainer's peft_config=): {way_out}"
        )


def refuse_trained_elsewhere(model: nn.Module, host: Host, trained: set[int]) -> None:
    """Refuse where another model trains something of what both share, and this one does not.

    Or the other way round: what one trains would change under the other, whose artifact lacks it.
    ``trained`` are the parameters, by identity, that this model would train.
    """
    parameters = {id(p): name for name, p in model.named_parameters()}
    for other in _others(model):
        theirs_may = set(other.__dict__[ATTRIBUTE].plan.may_train)
        theirs = {id(p): name in theirs_may for name, p in other.named_parameters()}
        for shared, name in parameters.items():
            if shared in theirs and theirs[shared] != (shared in trained):
                raise MethodError(
                    f"{host.names}: {name} is shared with a {type(other).__name__} "
                    f"that carries {_methods(other)}, and only one of the two would train it: "
                    f"{_ways_out(_top(model, other))}"
                )


def refuse_to_take_off_shared(model: nn.Module) -> None:
    """Refuse to give a model its base's values back where another one trains the same tensors."""
    existing = set(model.__dict__[ATTRIBUTE].plan.existing)
    trained = {id(p): name for name, p in model.named_parameters() if name in existing}
    for other in _others(model):
        shared = next((trained[id(p)] for p in other.parameters() if id(p) in trained), None)
        if shared:
            raise MethodError(
                f"{shared} is shared with a {type(other).__name__} that carries {_methods(other)} "
                "and trains it too: it would lose what it learned. Save both (ftplug.save), and "
                "load a fresh base"
            )


def _others(model: nn.Module) -> Iterator[nn.Module]:
    return (holder for holder in alive(_holders) if holder is not model)


def _holds_within(holder: nn.Module, model: nn.Module) -> bool:
    """Whether something that a holder's methods put there lies in another model."""
    added = set(holder.__dict__[ATTRIBUTE].plan.added)
    theirs = {id(p) for name, p in holder.named_parameters() if name in added}
    theirs |= {id(module) for module in holder.modules() if is_wrapped(module)}
    return any(id(part) in theirs for part in (*model.parameters(), *model.modules()))


def _refuse_shared(model: nn.Module, holder: nn.Module) -> None:
    kind, methods = type(model).__name__, _methods(holder)
    if any(module is model for module in holder.modules()):
        raise MethodError(
            f"this {kind} is a part of a {type(holder).__name__} that already carries a method "
            f"({methods}): apply all methods at once, to that"
        )
    part = _top(model, holder)
    raise MethodError(
        f"{part} of this {kind} already carries a method, {methods} of a {type(holder).__name__} "
        f"that shares it: {_ways_out(part)}"
    )


def _ways_out(part: str) -> str:
    return (
        "apply all methods at once to a module that holds both models, or give each model its own "
        f"{part} (copy.deepcopy, before the first method), or ftplug.merge the first one first"
    )


def _top(model: nn.Module, holder: nn.Module) -> str:
    """Return the name of the largest part that two models share."""
    theirs = {id(part) for part in (*holder.modules(), *holder.parameters())}
    parts = (*model.named_modules(), *model.named_parameters())
    return next((name for name, part in parts if id(part) in theirs), "what they share")


def _methods(holder: nn.Module) -> str:
    return str(holder.__dict__[ATTRIBUTE].host.names)
