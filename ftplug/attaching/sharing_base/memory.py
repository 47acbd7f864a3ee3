"""Which parameters lie in the same memory: asked of the parameters that are there now.

Names and models change under a parameter (a method is taken off, a part is used elsewhere) and its
memory may move (``share_memory()``). So each one is looked at where it is, by a weak reference.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn


class Lying(NamedTuple):
    """A parameter over shared memory, and the model that it was in, by weak references."""

    parameter: Callable[[], Any]
    model: Callable[[], Any]

    def called(self) -> str:
        """Return what the model calls the parameter."""
        found = self.parameter()
        named = () if (model := self.model()) is None else model.named_parameters()
        own = (name for name, parameter in named if parameter is found)
        return next(own, f"a parameter of shape {tuple(found.shape)}")


# By where they were noted; flat, as parameter, model, parameter, model, …: there are thousands.
_there: dict[int, tuple[Callable[[], Any], ...]] = {}
_noting = threading.Lock()


def where(tensor: Tensor) -> int:
    """Return which memory a tensor has, a number; 0 where it has none of its own."""
    try:
        # Not its address, which another process that is given the memory changes.
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # a wrapper of other tensors
        return 0


def note_memory(*models: nn.Module) -> None:
    """Note what lies in the same memory as what another model has."""
    with _noting:
        _forget_what_is_gone()
        for model in models:
            owner = weakref.ref(model)
            for parameter in model.parameters():
                _add(where(parameter), Lying(weakref.ref(parameter), owner))


def _noted(place: int) -> list[Lying]:
    known = _there.get(place, ())
    return [Lying(*pair) for pair in zip(known[::2], known[1::2], strict=True)]


def _add(place: int, one: Lying) -> None:
    if not any(one.parameter is k.parameter and one.model is k.model for k in _noted(place)):
        _there[place] = (*_there.get(place, ()), *one)


def _forget_what_is_gone() -> None:
    for place, known in list(_there.items()):
        alive = tuple(r for one in _noted(place) if one.parameter() is not None for r in one)
        if not alive:
            del _there[place]
        elif len(alive) < len(known):
            _there[place] = alive


def others_at(tensor: Tensor) -> list[Lying]:
    """Return the parameters, of other models, in which a write to this tensor would be seen.

    Asked in each step of an optimizer.
    """
    place = where(tensor) if _there else 0
    known = [(one.parameter(), one) for one in _noted(place)] if place else []
    here = [(p, one) for p, one in known if p is not None and where(p) == place]
    own = [one.model for parameter, one in here if parameter is tensor]
    return [one for _, one in here if not any(one.model is model for model in own)]


def others_for_certain(tensor: Tensor) -> list[Lying]:
    """Return the same, but nothing of a model that nobody has any more."""
    if others_at(tensor):
        gc.collect()  # what carries a method is in a cycle: del alone does not free it
    return others_at(tensor)
