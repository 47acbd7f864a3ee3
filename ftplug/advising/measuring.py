"""Steps measured in pairs, with and without a change, until the time for it is over."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

FEWEST, MOST = 5, 9  # pairs: five that all agree are no chance (1 in 32)


@dataclass(frozen=True)
class Paired:
    """Median seconds without and with a change; the ratios of the pairs, median, least and most."""

    before: float
    after: float
    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def agree(self) -> bool:
        """Whether enough pairs say the same, that it is faster or that it is slower."""
        return self.pairs >= FEWEST and (self.low > 1 or self.high < 1)

    def __str__(self) -> str:
        if self.pairs == 1:
            return "measured here once"
        return f"measured here in {self.pairs} pairs, {self.low:.2f} to {self.high:.2f}"


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """Return how long an action takes on a device."""
    _wait(device)
    start = time.perf_counter()
    action()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def compare(
    before: Callable[[], object],
    after: Callable[[], object],
    device: torch.device,
    limit: float,
    *,
    change: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Paired:
    """Measure two actions in turn, the second within ``change()``, for about ``limit`` seconds.

    The first pair does not count, unless there is time for no other: whatever is allocated or
    compiled once is there after it.
    """

    def pair() -> tuple[float, float]:
        a = seconds(before, device)
        with change():
            return a, seconds(after, device)

    start = time.perf_counter()
    first = pair()
    pairs: list[tuple[float, float]] = []
    while (
        len(pairs) < MOST
        and time.perf_counter() - start + sum(pairs[-1] if pairs else first) < limit
    ):
        pairs.append(pair())
    pairs = pairs or [first]
    ratios = [a / b for a, b in pairs]
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return Paired(
        medians[0], medians[1], statistics.median(ratios), min(ratios), max(ratios), len(pairs)
    )


class Kept:
    """Counts the bytes that a forward keeps for the backward, beside a model's own tensors.

    Activation checkpointing keeps the inputs of its layers where no hook sees them: name these.
    """

    def __init__(self, model: nn.Module, layers: list[nn.Module]) -> None:
        known = (*model.parameters(), *model.buffers())
        self._known = {t.untyped_storage().data_ptr() for t in known}
        self._layers = layers
        self._sizes: dict[int, int] = {}

    def bytes(self, forward: Callable[[], object]) -> int:
        """Run a forward; return what it keeps."""
        self._sizes.clear()
        hooks = [layer.register_forward_pre_hook(self._note_inputs) for layer in self._layers]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._note, lambda kept: kept):
                kept = forward()  # its graph must live: a storage that is freed is given out again
            del kept
        finally:
            for hook in hooks:
                hook.remove()
        return sum(self._sizes.values())

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def _note_inputs(self, layer: nn.Module, inputs: tuple[object, ...]) -> None:
        for value in inputs:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self._note(value)
