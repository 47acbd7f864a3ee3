"""Changing what a module computes without replacing the module, and in which mode it does.

The wrapped forward lives in a subclass made for such modules, not in an instance attribute: a
deepcopy, a DataParallel replica and an FSDP shard then all run their own weights. (A closure over
the original bound method would keep running the original's.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "Around",
    "forwards_disabled",
    "in_eval_mode",
    "is_wrapped",
    "unwrap_forward",
    "unwrapped_classes",
    "wrap_forward",
    "wraps",
]

_ENABLED = "_ftplug_enabled"
_INNER = "_ftplug_inner_forward"  # on a wrapping class: the attribute for what stood there
_AROUND = "_ftplug_around"  # on a wrapping class: what runs in place of the forward
_CLASSES: WeakValueDictionary[tuple[type, int], type] = WeakValueDictionary()

Around = Callable[..., Any]


def wrap_forward(module: nn.Module, around: Around) -> None:
    """Make ``around(module, forward, *args, **kwargs)`` run in place of ``module.forward``.

    ``forward`` is what the module did before (an earlier wrap included). ``around`` must not hold
    a reference to any module or tensor: everything it needs it finds on ``module``. The signature
    stays, since the Trainer reads it to drop unused columns. Modules of one class that are wrapped
    with the same function object get one class, by which FSDP finds them: pass a function of the
    module level, not one made for each module. Within :func:`ftplug.disabled` the
    module does again what it did before.
    """
    cls = type(module)
    own = f"{_INNER}_{len(cls.__mro__)}"  # each wrap of a module has another name
    if "forward" in module.__dict__:  # a library hooked this instance (accelerate's device hooks)
        module.__dict__[own] = module.__dict__.pop("forward")

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        inner = self.__dict__.get(own) or functools.partial(cls.forward, self)
        if not self.__dict__[_ENABLED]:
            return inner(*args, **kwargs)
        return around(self, inner, *args, **kwargs)

    # One class for all that is wrapped alike: FSDP finds a model's layers by the class of one.
    wrapping = _CLASSES.get((cls, id(around)))
    if wrapping is None:
        # Same name and module: transformers looks behaviour up by the printed class.
        body = {"forward": forward, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
        wrapping = type(cls.__name__, (cls,), body | {_INNER: own, _AROUND: around})
        _CLASSES[cls, id(around)] = wrapping  # it holds ``around``: no other has its id meanwhile
    module.__class__ = wrapping
    module.__dict__[_ENABLED] = True


def unwrap_forward(module: nn.Module) -> None:
    """Take the last wrap off, as ``merge_model`` does once it has folded in what was added."""
    own = type(module).__dict__.get(_INNER)
    if own is None:
        raise MethodError(f"unwrap_forward: this {type(module).__name__} is not wrapped")
    module.__class__ = type(module).__mro__[1]
    if own in module.__dict__:
        module.__dict__["forward"] = module.__dict__.pop(own)
    if _INNER not in type(module).__dict__:
        del module.__dict__[_ENABLED]


def is_wrapped(module: nn.Module) -> bool:
    """Whether the module's forward is wrapped."""
    return _ENABLED in module.__dict__


def wraps(module: nn.Module) -> list[Around]:
    """Return what was given to :func:`wrap_forward` and is still on the module, outermost first."""
    return [vars(cls)[_AROUND] for cls in type(module).__mro__ if _AROUND in vars(cls)]


def unwrapped_classes(module: nn.Module) -> Iterator[type]:
    """Yield a module's class, and those that it had before each wrap that is on it."""
    cls = type(module)
    yield cls
    while _INNER in vars(cls):
        cls = cls.__mro__[1]
        yield cls


@contextmanager
def forwards_disabled(model: nn.Module) -> Iterator[None]:
    """Let every wrapped module below ``model`` do what it did before it was wrapped."""
    wrapped = [m for m in model.modules() if is_wrapped(m)]
    before = [m.__dict__[_ENABLED] for m in wrapped]
    for module in wrapped:
        module.__dict__[_ENABLED] = False
    try:
        yield
    finally:
        for module, enabled in zip(wrapped, before, strict=True):
            module.__dict__[_ENABLED] = enabled


@contextmanager
def in_eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Hold these modules in eval mode (no dropout) within the block; each then has its own again.

    Not what is inside them: for a model and all of its parts give ``model.modules()``.
    """
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
