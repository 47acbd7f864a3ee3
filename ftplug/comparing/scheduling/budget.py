"""Which of the cells to do a limit of time allows."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ftplug.comparing.results import Cell, Result

RATES_SHARE = 0.5  # of a budget, after which no candidate tries another rate


@dataclass
class Budget:
    """A limit of time, and how long cells took that have ended.

    ``spent`` seconds went before this process began; ``clock`` returns those since.
    """

    minutes: float
    spent: float
    clock: Callable[[], float]
    jobs: int = 1

    @property
    def used(self) -> float:
        """Seconds since the comparison began, without the time in which nobody ran it."""
        return self.spent + self.clock()

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.minutes * 60 - self.used

    @property
    def is_for_seeds(self) -> bool:
        """Whether what is left is for seeds: no further rate is tried."""
        return self.used >= RATES_SHARE * self.minutes * 60

    def affordable(
        self, cells: Sequence[Cell], results: Sequence[Result], baseline: str
    ) -> list[Cell]:
        """Return those of the cells to do that a budget allows, in their order.

        None that would exceed it; and while the seeds do not fit, none of the candidate that is
        furthest behind: neither the best one nor the baseline, which all are compared with.
        """
        took, now = Durations(results), self.left
        left = [cell for cell in cells if now > 0 and took.of(cell) <= now]
        for candidate in _furthest_behind_first(results):
            if sum(map(took.of, left)) / self.jobs <= now:
                break
            if candidate != baseline:
                left = [cell for cell in left if cell.seed == 0 or cell.candidate != candidate]
        return left


class Durations:
    """Seconds that a cell takes: its candidate's finished ones, else all finished ones' mean."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.by_candidate: dict[str, list[float]] = {}
        for result in results:
            if result.status == "finished" and result.seconds is not None:
                self.by_candidate.setdefault(result.candidate, []).append(result.seconds)
        self.all = [one for seconds in self.by_candidate.values() for one in seconds]

    def of(self, cell: Cell) -> float:
        """Return the seconds expected of a cell, 0 while nothing is known."""
        known = self.by_candidate.get(cell.candidate, self.all)
        return statistics.fmean(known) if known else 0.0


def _furthest_behind_first(results: Sequence[Result]) -> list[str]:
    """Return the candidates that have finished cells, the worst first, without the best one."""
    best: dict[str, float] = {}
    for result in results:
        if result.status == "finished" and result.chosen_by is not None:
            value = result.chosen_by if result.greater_is_better else -result.chosen_by
            best[result.candidate] = max(value, best.get(result.candidate, value))
    return sorted(best, key=lambda candidate: best[candidate])[:-1]
