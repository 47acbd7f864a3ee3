"""Whether what models share is still shared, and still what it was: asked, and watched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftplug.attaching.holders import ATTRIBUTE as CARRIES
from ftplug.attaching.sharing_base.memory import Lying, others_at, others_for_certain
from ftplug.attaching.sharing_base.shared import (
    Shared,
    shared_by,
    shared_parameters,
)
from ftplug.context import logger
from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import nn

_WAY_OUT = (
    "to train something of the base, take a copy first (copy.deepcopy), or load the artifact "
    "without share_base"
)
_watching = False


def require_shared_as_it_was(model: nn.Module, doing: str, *, thorough: bool = True) -> None:
    """Refuse where somebody wrote to what a model shares, or is about to.

    Of what lies elsewhere by now a warning says, once, that it is shared no longer: the model has
    the right values, in memory of its own. ``thorough=False`` asks none of the other models on the
    base, and leaves out a sample of the values, which finds writes that torch does not count. A
    model that carries no method is a base: what is written to it is its user's.
    """
    if (shared := shared_by(model)) is None or CARRIES not in model.__dict__:
        return
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    _say_what_has_moved(model, shared, names, doing)
    for noted in shared.tensors.values():
        own = noted.own()
        if own.requires_grad and others_for_certain(own):
            raise MethodError(
                f"{doing}: {names[id(own)]} requires gradients, and other models share it "
                f"(share_base=True), under which it would change: {_WAY_OUT}"
            )
    if (written := shared.written(thorough=thorough)) is not None:
        raise MethodError(
            f"{doing}: {names[id(written)]}, which this {type(model).__name__} shares with its "
            "base (share_base=True), was written to since: it is no longer what the artifact was "
            "trained on: load base and artifact again"
        )


def _say_what_has_moved(
    model: nn.Module, shared: Shared, names: Mapping[int, str], doing: str
) -> None:
    """Say it, and forget what the model has in memory of its own, or not at all."""
    total = len(shared.tensors)
    left = [n for n in shared.tensors.values() if n.is_moved() or id(n.own()) not in names]
    first = [name for name, noted in shared.tensors.items() if noted in left]
    shared.leave(left)
    gone = [n for n in shared.tensors.values() if n.base_has_moved() and not n.told]
    for noted in gone:
        noted.told = True
    if told := (*first, *(names[id(noted.own())] for noted in gone)):
        whose = f"this {type(model).__name__}" if left else "its base"
        logger.warning(
            "%s: %s is no longer shared (%d of %d tensors): %s has moved, been cast or resized "
            "since it was loaded with share_base=True; the values are right, and lie in memory "
            "twice",
            *(doing, told[0], len(told), total, whose),
        )


def refuse_shared(model: nn.Module, methods: str, trained: Collection[int]) -> None:
    """Refuse to train, in a base, what models that were loaded on it share.

    ``trained`` are the parameters, by identity. Such a model itself gets memory of its own.
    """
    if shared_by(model) is not None:
        return
    for name, parameter in shared_parameters(model).items():
        if id(parameter) in trained and (others := others_for_certain(parameter)):
            raise MethodError(f"{methods}: {_told(name, others)}")


def watch_optimizers() -> None:
    """Let no optimizer of torch's step on what models share, from now on."""
    global _watching
    if _watching:
        return
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    register_optimizer_step_pre_hook(_refuse_step)
    _watching = True


def _refuse_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None or not others_at(parameter):
                continue
            if others := others_for_certain(parameter):
                told = _told(others[0].called(), others)
                raise MethodError(f"{type(optimizer).__name__} would train the base: {told}")


def _told(name: str, others: Sequence[Lying]) -> str:
    model = others[0].model()
    kind = "model" if model is None else type(model).__name__
    loaded = model is None or shared_by(model)
    whose = f"a {kind} that was loaded with share_base=True" if loaded else f"its base, a {kind}"
    return f"{name} is shared with {whose}, under which it would change: {_WAY_OUT}"
