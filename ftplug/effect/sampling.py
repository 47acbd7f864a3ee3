"""Which of a model's many numbers a probe keeps: by their shape alone, the same ones everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 64
"""Numbers of each kind of answer."""
TOP = 20
"""Of the likeliest next tokens, of the base and of the trained model each."""


def sample(answer: Tensor, columns: Tensor | None = None, most: int = SAMPLE) -> Tensor:
    """Return (n,) float32, on the CPU: all of a small answer, else n = ``most`` at seeded places.

    Of rows of few numbers, (..., classes), whole rows are taken, the last one among them.
    ``columns`` are token ids: of logits (1, tokens, vocabulary) half of the places are theirs, in
    the last row.
    """
    flat = answer.detach().reshape(-1)
    return flat[_places(tuple(answer.shape), columns, most).to(flat.device)].float().cpu()


def _places(shape: tuple[int, ...], columns: Tensor | None, most: int) -> Tensor:
    import math

    import numpy as np
    import torch

    count, width = math.prod(shape), shape[-1] if shape else 1
    draw = np.random.RandomState(0)
    if count <= most:
        return torch.arange(count)
    if width <= most and columns is None:
        rows = count // width
        chosen = {rows - 1, *draw.randint(0, rows, most // width - 1).tolist()}
        return torch.tensor([r * width + c for r in sorted(chosen) for c in range(width)])
    own: list[int] = []
    if columns is not None:
        known = [c for c in dict.fromkeys(columns.flatten().tolist()) if c < width]
        own = [count - width + c for c in known[: most // 2]]
    return torch.tensor(own + draw.randint(0, count, most - len(own)).tolist())
