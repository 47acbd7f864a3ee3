"""Writes to memory that others read: seen as they happen, and refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug.attaching.sharing_base.memory import where
from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def no_writes(names: Mapping[int, str], methods: str) -> Iterator[None]:
    """Refuse every operation of this thread, within the block, that writes to such memory.

    ``names`` says what the tensors are called, by address.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Refusing(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given = kwargs or {}
            for tensor in _written(func, args, given):
                if name := names.get(where(tensor)):
                    raise MethodError(
                        f"{methods}: writes to {name} of the base while it is put on, which other "
                        "models share (share_base=True): load this artifact on a base of its own"
                    )
            return func(*args, **given)

    mode: Any = Refusing
    with mode():  # torch declares no types here
        yield


def _written(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operation of torch writes to, by its schema."""
    import torch

    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, torch.Tensor):
                yield one
