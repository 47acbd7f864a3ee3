"""What the functions on a module hold: a deepcopy of the module does not copy that with it."""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks"),
    "_load_state_dict_post_hooks",
)
_CONTAINERS = (list, tuple, set, frozenset, deque)


def functions_of(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield what a module has of functions, its hooks among them, and under which name."""
    for name, value in module.__dict__.items():
        if name in _HOOKS:
            yield from ((name.strip("_"), hook) for hook in value.values())
        elif callable(value) and not isinstance(value, type):
            yield name, value


def not_copied_with(function: Any) -> Iterator[Any]:
    """Yield all that a function reaches and a deepcopy of it would share.

    That is what it closes over, its defaults, and the globals that it names; in these what is in
    containers and weak references, and what functions of the same file reach. Of an object that it
    closes over also the attributes.
    """
    seen: dict[int, Any] = {}
    found = deque((value, True) for value in _kept_by(function))
    found.extend((value, False) for value in _named_by(function))
    while found:
        value, closed_over = found.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value  # kept: another one has its number otherwise
        yield value
        inner = _inner_function(value)
        if inner is not None and inner.__module__ == getattr(function, "__module__", None):
            found.extend((one, False) for one in _named_by(inner))
        found.extend((one, closed_over and _holds_several(value)) for one in _within(value))
        if closed_over:
            found.extend((one, False) for one in _attributes(value))


def _inner_function(value: Any) -> types.FunctionType | None:
    """Return the Python function in a partial or a method, which a deepcopy does not copy."""
    if isinstance(value, functools.partial):
        return _inner_function(value.func)
    if isinstance(value, types.MethodType):
        return _inner_function(value.__func__)
    return value if isinstance(value, types.FunctionType) else None


def _kept_by(function: Any) -> Iterator[Any]:
    """Yield what a function closes over and its defaults: a method's object is copied."""
    if isinstance(function, weakref.ref):
        yield function()
    elif (inner := _inner_function(function)) is not None:
        yield from _closed_over(inner)
        yield from inner.__defaults__ or ()
        yield from (inner.__kwdefaults__ or {}).values()


def _closed_over(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _named_by(function: Any) -> Iterator[Any]:
    """Yield the globals that a function, or one within it, names."""
    if (inner := _inner_function(function)) is not None:
        names = frozenset(_names(inner.__code__))
        yield from (inner.__globals__[name] for name in names if name in inner.__globals__)


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _holds_several(value: Any) -> bool:
    return isinstance(value, (Mapping, *_CONTAINERS, functools.partial, types.FunctionType))


def _within(value: Any) -> Iterator[Any]:
    """Yield what is in a container, a function or a weak reference."""
    if isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, types.FunctionType | weakref.ref):
        yield from _kept_by(value)
    elif isinstance(value, Mapping):
        yield from list(value.values())
    elif isinstance(value, _CONTAINERS):
        yield from list(value)


def _attributes(value: Any) -> Iterator[Any]:
    """Yield what a plain object has: neither a module of torch or Python, nor a class."""
    from torch import Tensor, nn

    if not isinstance(value, nn.Module | Tensor | type | types.ModuleType):
        yield from list(getattr(value, "__dict__", {}).values())
