"""Which candidates nothing else beats in everything: quality against time, memory and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from ftplug.comparing.results import Result

Goods = tuple[float | None, ...]


def front(finished: Mapping[str, Sequence[Result]]) -> list[str]:
    """Return the candidates on the Pareto front: none is as good in all, and better in one.

    Of each candidate's cells the means count: the metric, the seconds of training, peak memory
    (of the GPU where all have it, else RSS) and the bytes of the artifact. What one candidate has
    no figure of is not compared.
    """
    goods = {one: _goods(cells) for one, cells in finished.items() if cells}
    if not goods:
        return []
    known = [
        all(value is not None for value in column) for column in zip(*goods.values(), strict=True)
    ]
    *first, gpu, rss = known
    compared = [*first, gpu, rss and not gpu]
    points = {
        one: [value for value, use in zip(own, compared, strict=True) if use and value is not None]
        for one, own in goods.items()
    }
    return [
        one
        for one, own in points.items()
        if not any(_beats(other, own) for other in points.values())
    ]


def _beats(other: Sequence[float], own: Sequence[float]) -> bool:
    pairs = list(zip(other, own, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _goods(cells: Sequence[Result]) -> Goods:
    """Return what a candidate offers, more being better."""
    sign = 1.0 if cells[0].greater_is_better else -1.0
    return (
        _mean(cells, lambda cell: None if cell.value is None else sign * cell.value),
        _mean(cells, lambda cell: cell.train_seconds, -1.0),
        _mean(cells, lambda cell: cell.artifact_bytes, -1.0),
        _mean(cells, lambda cell: cell.peak_gpu, -1.0),
        _mean(cells, lambda cell: cell.peak_rss, -1.0),
    )


def _mean(
    cells: Sequence[Result], read: Callable[[Result], float | None], sign: float = 1.0
) -> float | None:
    values = [value for value in map(read, cells) if value is not None]
    return sign * math.fsum(values) / len(values) if values else None
