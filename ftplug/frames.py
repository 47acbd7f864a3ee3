"""Lookups on the call stack, for what transformers, TRL and torch hand to nobody."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from ftplug.errors import MethodError

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


def _callers() -> Iterator[FrameType]:
    """Yield the frames that led to the caller of the caller, the nearest first."""
    frame = sys._getframe(2)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def trainer_in_construction(callback: TrainerCallback) -> Trainer:
    """Return the Trainer whose ``__init__`` is calling: transformers hands callbacks none."""
    from transformers import Trainer

    for frame in _callers():
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
    raise MethodError("FTPlugCallback works in a transformers Trainer: no Trainer is calling it")


def constructor_argument(trainer: Trainer, name: str) -> Any:
    """Return an argument of the ``__init__`` of this Trainer that is running, or None."""
    for frame in _callers():
        if frame.f_locals.get("self") is trainer and name in frame.f_locals:
            return frame.f_locals[name]
    return None


def calling_object() -> Any:
    """Return the object whose method called the function that asks, or None."""
    return sys._getframe(2).f_locals.get("self")


def calling_module(names: Collection[str]) -> str | None:
    """Return the first of these modules that is on the call stack."""
    for frame in _callers():
        known = frame.f_globals.get("__spec__")  # run with -m, a module is called __main__
        if known is not None and known.name in names:
            return str(known.name)
    return None
