"""Steps of an optimizer on given gradients: what an optimizer method is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

SHAPES = ((24, 16), (16, 24), (16, 16), (24,))  # tall, wide, square, and a vector


def parameters() -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]


def steps(
    optimizer: torch.optim.Optimizer, given: Sequence[nn.Parameter], count: int
) -> list[list[torch.Tensor]]:
    """Take steps on gradients drawn from a seed, of changing size; return all values they gave."""
    draw = torch.Generator().manual_seed(1)
    found = []
    for step in range(count):
        for parameter in given:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.grad = noise * (1 + step % 3)
        optimizer.step()
        found.append([parameter.detach().clone() for parameter in given])
    return found


def groups(given: Sequence[nn.Parameter], **low_rank: Any) -> list[dict[str, Any]]:
    """Put the matrices into a low-rank group with weight decay, the vector into a plain one."""
    return [{"params": list(given[:3]), "weight_decay": 0.1, **low_rank}, {"params": [given[3]]}]


@contextmanager
def replaced(owner: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
