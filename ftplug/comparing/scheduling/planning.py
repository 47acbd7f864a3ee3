"""Which cells a comparison needs, in which order, and which of them a budget of time allows.

Without ``--lr`` each candidate first tries three rates with the first seed (the suggested one, then
the low and the high one), one step beyond an edge that wins, and then the other seeds at the rate
that was chosen. A given rate, or a list of them without a budget, is a grid: all of it runs. The
order is the same in every run of a comparison.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ftplug.comparing.candidates import low_suggested_high, parse, searched_rates
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import Cell, Result

Rates = tuple[float | None, ...]


class Edge(Protocol):
    """Where the best rate of a candidate has no neighbour, and the rate beyond."""

    @property
    def next_rate(self) -> float:
        """The rate to try."""
        ...


Beyond = Callable[[Sequence[Result], str, float | None], Edge | None]
Choosing = Callable[[Comparison, Sequence[Result]], Mapping[str, float | None]]


@dataclass(frozen=True)
class Plan:
    """The cells of a comparison, from what has ended so far.

    ``rates`` are those that each candidate tries first; ``choose`` returns the best of each
    candidate, ``beyond`` the edge that a rate stands at: ``chosen_rates`` and ``at_edge`` of
    :mod:`ftplug.comparing.choosing`. ``only`` ends the search for rates: no further cell of it is
    begun.
    """

    comparison: Comparison
    rates: Mapping[str, Rates]
    choose: Choosing
    beyond: Beyond
    only: frozenset[Cell] | None = None

    def cells(self, results: Sequence[Result]) -> list[Cell]:
        """Return all cells that are known to be needed, those that have ended among them."""
        if self.is_grid:
            return [
                Cell(candidate, rate, seed)
                for seed in range(self.comparison.seeds)
                for candidate in self.comparison.candidates
                for rate in self.rates[candidate]
            ]
        return self._of_rates(results) + self._of_seeds(results)

    def todo(self, results: Sequence[Result]) -> list[Cell]:
        """Return the cells that are needed and have not ended."""
        ended = {result.cell for result in results}
        return [cell for cell in self.cells(results) if cell not in ended]

    def left_out(self, results: Sequence[Result]) -> list[Cell]:
        """Return what has not ended of all that is needed, rates that ``only`` forbids too."""
        ended = {result.cell for result in results}
        rates = [] if self.is_grid else dataclasses.replace(self, only=None)._of_rates(results)
        return list(dict.fromkeys([*(c for c in rates if c not in ended), *self.todo(results)]))

    def most(self, results: Sequence[Result]) -> int:
        """Return how many cells there will be, as far as can be told: each seed counts."""
        if self.is_grid:
            return len(self.cells(results))
        seeds = (self.comparison.seeds - 1) * len(self.comparison.candidates)
        return len(self._of_rates(results)) + seeds

    @property
    def is_grid(self) -> bool:
        """Whether all rates run with all seeds."""
        rates, budget = self.comparison.rates, self.comparison.budget_minutes
        return rates == "suggested" or (rates is not None and budget is None)

    def is_for_rates(self, cell: Cell) -> bool:
        """Whether a cell is part of the search for a rate, where it may be pruned."""
        return not self.is_grid and cell.seed == 0 and len(self.rates[cell.candidate]) > 1

    def _of_rates(self, results: Sequence[Result]) -> list[Cell]:
        """Return the search for rates: each candidate's first rate before anybody's second."""
        most = max(map(len, self.rates.values()))
        ended = {result.cell for result in results}
        cells = [
            Cell(candidate, self.rates[candidate][turn], 0)
            for turn in range(most)
            for candidate in self.comparison.candidates
            if turn < len(self.rates[candidate])
        ]
        if self.only is not None:
            first = {Cell(candidate, rates[0], 0) for candidate, rates in self.rates.items()}
            return [cell for cell in cells if cell in self.only | first]
        return cells + self._beyond_edges(results, ended)

    def _beyond_edges(self, results: Sequence[Result], ended: set[Cell]) -> list[Cell]:
        """Return one more rate for each candidate whose best one has none beside it."""
        if self.comparison.budget_minutes is not None:
            return []
        cells = []
        for candidate, rates in self.rates.items():
            first = {Cell(candidate, rate, 0) for rate in rates}
            if len(rates) > 1 and first <= ended:
                among = [result for result in results if result.cell in first]
                best = self.choose(self.comparison, among).get(candidate)
                edge = self.beyond(among, candidate, best)
                if edge is not None and any(one.status == "finished" for one in among):
                    cells.append(Cell(candidate, edge.next_rate, 0))
        return cells

    def _of_seeds(self, results: Sequence[Result]) -> list[Cell]:
        """Return the other seeds of candidates whose rate is chosen, one seed after the other."""
        ended = {result.cell for result in results}
        tried: dict[str, set[Cell]] = {}
        for cell in self._of_rates(results):
            tried.setdefault(cell.candidate, set()).add(cell)
        first = [result for result in results if result.seed == 0]
        chosen = self.choose(self.comparison, first) if first else {}
        alive = {result.candidate for result in first if result.status == "finished"}
        ready = [
            candidate
            for candidate in self.comparison.candidates
            if candidate in alive and candidate in chosen and tried[candidate] <= ended
        ]
        return [
            Cell(candidate, chosen[candidate], seed)
            for seed in range(1, self.comparison.seeds)
            for candidate in ready
        ]


def planned_rates(comparison: Comparison) -> dict[str, Rates]:
    """Return the rates that each candidate tries first, in the order in which it does.

    ``(None,)``, the script's own rate, where suggested ones are asked for and there is none.
    """
    if isinstance(comparison.rates, tuple):
        return dict.fromkeys(comparison.candidates, comparison.rates)
    found: dict[str, Rates] = {}
    for text in comparison.candidates:
        methods = parse(text).methods
        if comparison.rates == "suggested":
            known = low_suggested_high(methods)
            found[text] = (known.suggested if known else None,)
        else:
            found[text] = searched_rates(methods)
    return found
