"""Which learning rate a candidate is judged at: the best one on the evaluation set."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import Result

Label = TypeVar("Label", bound=Hashable)


def chosen_rates(comparison: Comparison, results: Sequence[Result]) -> dict[str, float | None]:
    """Return each candidate's rate, by the metric on the evaluation set (``chosen_by``).

    Rates are compared over the seeds at which all of them have ended, else at the first seed of
    any. A rate that finished at more of these is chosen before one that finished at fewer; of
    rates that are equal the middle one. None is the script's own rate; a candidate of which no
    cell has ended is left out.
    """
    found = {}
    for candidate in comparison.candidates:
        by_rate = rates_tried(results, candidate)
        if by_rate:
            found[candidate] = _middle(best(by_rate))
    return found


def rates_tried(results: Iterable[Result], candidate: str) -> dict[float | None, list[Result]]:
    """Return a candidate's ended cells by rate, however they ended."""
    by_rate: dict[float | None, list[Result]] = defaultdict(list)
    for result in results:
        if result.candidate == candidate:
            by_rate[result.lr].append(result)
    return dict(by_rate)


def best(groups: Mapping[Label, Sequence[Result]]) -> list[Label]:
    """Return the labels of the best groups of cells, more than one where they are equal."""
    seeds = {label: {result.seed for result in cells} for label, cells in groups.items()}
    shared = set.intersection(*seeds.values()) or {min(set.union(*seeds.values()))}
    scores = {label: _score(cells, shared) for label, cells in groups.items()}
    top = max(scores.values())
    return [label for label, score in scores.items() if score == top]


def _score(cells: Sequence[Result], seeds: set[int]) -> tuple[int, float]:
    """Return how many of these seeds finished, and the metric there turned so that more is better.

    Where none finished a pruned cell's metric counts.
    """
    at = [result for result in cells if result.seed in seeds]
    finished = [result for result in at if result.status == "finished"]
    return len(finished), turned_mean(finished or at)


def turned_mean(cells: Iterable[Result]) -> float:
    """Return the mean of ``chosen_by``, turned so that more is better; -inf where there is none."""
    values = [
        result.chosen_by if result.greater_is_better else -result.chosen_by
        for result in cells
        if result.chosen_by is not None and math.isfinite(result.chosen_by)
    ]
    return math.fsum(values) / len(values) if values else -math.inf


def _middle(rates: list[float | None]) -> float | None:
    known = sorted(rate for rate in rates if rate is not None)
    return known[(len(known) - 1) // 2] if known else None


@dataclass(frozen=True)
class Edge:
    """A winning rate is the lowest or highest of those tried, and ``next_rate`` lies beyond it."""

    side: Literal["lowest", "highest"]
    rate: float
    next_rate: float


def at_edge(results: Iterable[Result], candidate: str, rate: float | None) -> Edge | None:
    """Return the edge at which a candidate's chosen rate lies, None if it has neighbours.

    A neighbour that failed or diverged is one. The next rate is further by the factor between the
    edge and its neighbour, ten at most, to three digits. With one rate tried there is no grid and
    no edge.
    """
    tried = sorted(known for known in rates_tried(results, candidate) if known is not None)
    if rate is None or len(tried) < 2 or rate not in (tried[0], tried[-1]):
        return None
    lowest = rate == tried[0]
    neighbour = tried[1] if lowest else tried[-2]
    factor = min(max(rate / neighbour, 0.1), 10.0)
    next_rate = float(f"{rate * factor:.3g}")
    return Edge("lowest" if lowest else "highest", rate, next_rate)
