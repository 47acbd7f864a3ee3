"""What a report says of each candidate: its verdict, and what its cells cost at the chosen rate."""

from __future__ import annotations

import math
import string
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ftplug.comparing.report.texts import NAME, clean
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Judged, Summary


@dataclass(frozen=True)
class Row:
    """A candidate; times in seconds and sizes in bytes, of its finished cells at its rate.

    ``letter`` stands for it in pictures. ``seconds`` is a mean over seeds, ``memory`` the highest,
    on the GPU where one was used. ``curve`` has (epoch, mean metric on the evaluation set).
    """

    letter: str
    name: str
    judged: Judged
    cells: int
    seconds: float | None = None
    cpu_seconds: float | None = None
    memory: float | None = None
    parameters: float | None = None
    artifact: float | None = None
    forgetting: float | None = None
    curve: tuple[tuple[float, float], ...] = ()


def rows(summary: Summary, results: Sequence[Result]) -> list[Row]:
    """Return a row a candidate, in the order of the summary."""
    on_gpu = uses_gpu(results)
    return [
        _row(letter(at), judged, _finished(judged, results), summary.metric, on_gpu)
        for at, judged in enumerate(summary.candidates)
    ]


def uses_gpu(results: Iterable[Result]) -> bool:
    """Whether memory was measured on a GPU."""
    return any(result.peak_gpu for result in results)


def letter(at: int) -> str:
    """Return A, B, … Z, AA, AB, …"""
    first = letter(at // 26 - 1) if at >= 26 else ""
    return first + string.ascii_uppercase[at % 26]


def _finished(judged: Judged, results: Iterable[Result]) -> list[Result]:
    cells = (r for r in results if r.candidate == judged.candidate and r.lr == judged.lr)
    return [r for r in cells if r.status == "finished"]


def _row(
    letter: str, judged: Judged, cells: Sequence[Result], metric: str | None, on_gpu: bool
) -> Row:
    return Row(
        letter,
        clean(judged.candidate, NAME),
        judged,
        len(cells),
        seconds=_mean(r.train_seconds for r in cells),
        cpu_seconds=_mean(r.train_cpu_seconds for r in cells),
        memory=_highest((r.peak_gpu if on_gpu else r.peak_rss) for r in cells),
        parameters=_highest(r.trained_parameters for r in cells),
        artifact=_highest(r.artifact_bytes for r in cells),
        forgetting=_mean(r.forgetting for r in cells),
        curve=_curve(cells, metric),
    )


def _curve(cells: Iterable[Result], metric: str | None) -> tuple[tuple[float, float], ...]:
    found = defaultdict[float, list[float]](list)
    for result in cells:
        for point in result.epochs:
            values = point.get("metrics") or {}
            value = values.get(metric, values.get(f"eval_{metric}"))
            if len(known := _known([point.get("epoch"), value])) == 2:
                found[known[0]].append(known[1])
    return tuple((epoch, fmean(values)) for epoch, values in sorted(found.items()))


def _known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _mean(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return fmean(known) if known else None


def _highest(values: Iterable[float | None]) -> float | None:
    return max(_known(values), default=None)
