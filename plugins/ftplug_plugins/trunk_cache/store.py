"""A trunk cache's memory: a pool of token slots, of which the least recently used are freed first.

A row of the pool holds one token's hidden state, so that examples of any length share it without
gaps, and a whole batch is gathered by one indexing, whatever its padding.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

from ftplug import MethodError
from ftplug.context import logger
from ftplug_plugins.trunk_cache.cut import NAME

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_CHUNK = 2**26  # bytes of a file that are reserved at a time


class TrunkStore:
    """Hidden states (tokens, width) of examples by key, in at most ``limit`` bytes on the CPU.

    Memory is taken as it is filled. On disk the pool is a memory-mapped file without a name in the
    folder for temporary files (``TMPDIR``): it is gone with the process, however that ends;
    where the disk is full, what is reserved by then is all there is.
    Raises :class:`ftplug.MethodError` where the pool cannot be had.
    """

    def __init__(self, width: int, dtype: torch.dtype, limit: int, *, on_disk: bool) -> None:
        slots = limit // (width * dtype.itemsize)
        if slots < 2:
            raise MethodError(f"{NAME}: bytes={limit} holds no example: raise it")
        self.limit = limit
        self.evicted = 0  # examples
        self._pool, self._file = _pool(slots, width, dtype, on_disk=on_disk)
        self._capacity, self._reserved = slots, 0 if on_disk else slots
        if self._file is not None:
            weakref.finalize(self, os.close, self._file)
        self._reserve(1)
        self._pool[0] = 0  # what stands at padding
        self._slots: OrderedDict[bytes, Tensor] = OrderedDict()  # the last used one last
        self._next = 1  # the first slot that was never used
        self._freed: list[int] = []

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def nbytes(self) -> int:
        """How many bytes the hidden states take."""
        used: int = (self._next - len(self._freed)) * self._pool[0].nbytes
        return used

    @property
    def dtype(self) -> torch.dtype:
        """What is stored; what was computed is rounded to it."""
        return self._pool.dtype

    def find(self, key: bytes) -> Tensor | None:
        """Return the slots of an example's tokens, in order, or None."""
        slots = self._slots.get(key)
        if slots is not None:
            self._slots.move_to_end(key)
        return slots

    def read(self, slots: Tensor) -> Tensor:
        """Return a copy (…, width) of what is in these slots; slot 0 is zero."""
        return self._pool.index_select(0, slots.flatten()).view(*slots.shape, -1)

    def put(self, key: bytes, hidden_states: Tensor) -> None:
        """Keep (tokens, width) under a key; what is larger than the whole pool is not kept."""
        count = len(hidden_states)
        if key in self._slots:
            return
        self._reserve(self._next + count - len(self._freed))
        if count >= self._capacity:
            return
        while self._capacity - self._next + len(self._freed) < count:
            self._freed += self._slots.popitem(last=False)[1].tolist()
            self.evicted += 1
        slots = self._take(count)
        self._pool[slots] = hidden_states.to("cpu", self.dtype)
        self._slots[key] = slots

    def _reserve(self, slots: int) -> None:
        """Take a file's blocks before they are written: on a full disk the kernel would kill us."""
        slots = min(slots, self._capacity)
        allocate = getattr(os, "posix_fallocate", None)  # macOS has none
        if slots <= self._reserved or allocate is None:
            return
        size = self._pool[0].nbytes
        end = min(max(slots, self._reserved + _CHUNK // size), self._capacity)
        try:
            allocate(self._file, self._reserved * size, (end - self._reserved) * size)
        except OSError as error:
            folder = tempfile.gettempdir()
            if self._reserved == 0:
                raise MethodError(
                    f"{NAME}: on_disk=True: {folder} has no room for {end * size} bytes ({error}): "
                    "free some, let TMPDIR name another folder, or leave on_disk out"
                ) from error
            logger.warning(
                "%s: on_disk=True: %s is full (%s): no more than %d bytes are kept, the least "
                "recently used go first", NAME, folder, error, self._reserved * size,
            )  # fmt: skip
            self._capacity = self._reserved
        else:
            self._reserved = end

    def _take(self, count: int) -> Tensor:
        import torch

        again = min(count, len(self._freed))
        taken = [self._freed.pop() for _ in range(again)]
        taken += range(self._next, self._next + count - again)
        self._next += count - again
        return torch.tensor(taken)


def _pool(
    slots: int, width: int, dtype: torch.dtype, *, on_disk: bool
) -> tuple[Tensor, int | None]:
    """Return (slots, width), and the descriptor of the file behind it."""
    import numpy
    import torch

    size = slots * width * dtype.itemsize
    try:
        if not on_disk:
            # Pages are taken when they are first written.
            return torch.empty(slots, width, dtype=dtype), None
        with tempfile.TemporaryFile(prefix="ftplug-trunk-") as file:
            mapped = numpy.memmap(cast("Any", file), numpy.uint8, "w+", shape=(size,))
            descriptor = os.dup(file.fileno())
    except (OSError, RuntimeError, MemoryError) as error:
        raise MethodError(f"{NAME}: bytes={size} cannot be had: lower it ({error})") from error
    return torch.from_numpy(mapped).view(dtype).view(slots, width), descriptor
