"""Time and memory on whatever device there is: a GPU by its events, a CPU by the clock."""

from __future__ import annotations

from collections.abc import Callable

import pairs
import torch

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def seconds(step: Callable[[], object]) -> float:
    """Return how long a step takes on the device."""
    if not CUDA:
        return pairs.timed(step)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def allocated() -> int:
    """Return the bytes of the GPU's tensors now; 0 on a CPU."""
    return torch.cuda.memory_allocated() if CUDA else 0


def peak_of(step: Callable[[], object]) -> int:
    """Take a step; return the most bytes that the GPU's tensors had meanwhile, 0 on a CPU."""
    if not CUDA:
        step()
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()
