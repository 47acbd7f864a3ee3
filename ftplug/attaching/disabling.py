"""The base model's answers from a model that carries methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ftplug.attaching.attachment import require_attachment, unwrap_model
from ftplug.attaching.sharding import reshard
from ftplug.attaching.sharing_base.checking import require_shared_as_it_was
from ftplug.errors import MethodError
from ftplug.inplace import forwards_disabled

if TYPE_CHECKING:
    from torch import nn

_off: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # how often each is disabled now


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Let the model give the base model's answers, exactly, within the block.

    Added modules do nothing and the base's own tensors (a trained head, unfrozen layers) hold the
    values they had when the method was applied. Useful as the reference model of DPO.
    """
    attached, inner = require_attachment(model), unwrap_model(model)
    require_shared_as_it_was(inner, "disabled", thorough=False)
    with _noted(inner), _methods_off(model), attached.original_values.put_back(inner):
        yield


@contextmanager
def _noted(model: nn.Module) -> Iterator[None]:
    _off[model] = _off.get(model, 0) + 1
    try:
        yield
    finally:
        _off[model] -= 1


def refuse_disabled(model: nn.Module, doing: str) -> None:
    """Refuse what would take the base's values for trained ones, or have them replaced after it."""
    if _off.get(model):
        raise MethodError(
            f"{doing}: this {type(model).__name__} is disabled, and has the base's values: call it "
            "after the with ftplug.disabled(…) block"
        )


@contextmanager
def trunk_of_base(model: nn.Module) -> Iterator[None]:
    """Let the model's head, as it is now, answer on the base's trunk within the block.

    What :func:`disabled` does, but what is saved of the head keeps its values: so answers an
    artifact of which the head was loaded, and nothing else took effect.
    """
    attached = require_attachment(model)
    inner = unwrap_model(model)
    head = set(attached.trained_head)
    owners = {name.rpartition(".")[0] for name in head}
    head |= {n for n in attached.original_values.kept if n.rpartition(".")[0] in owners}
    with _methods_off(model), attached.original_values.put_back(inner, but=head):
        yield


@contextmanager
def methods_off(model: nn.Module) -> Iterator[None]:
    """Let what the methods added do nothing within the block; every tensor keeps its value.

    Of a model that has not trained yet that is the base.
    """
    with _methods_off(model):
        yield


@contextmanager
def _methods_off(model: nn.Module) -> Iterator[None]:
    attached = require_attachment(model)
    inner = unwrap_model(model)
    trains = {name for name, p in inner.named_parameters() if p.requires_grad}
    with ExitStack() as stack:
        if attached.first_backward:
            stack.enter_context(attached.first_backward.paused())
        stack.callback(_trains_again, inner, trains)  # last: libraries toggle it on their way out
        stack.enter_context(forwards_disabled(inner))
        for context in attached.host.call("disable_model", model=inner):
            stack.enter_context(context)
        yield


def _trains_again(model: nn.Module, names: set[str]) -> None:
    """Let these require gradients again; unlike a schedule, this forgets no gradient."""
    reshard(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
