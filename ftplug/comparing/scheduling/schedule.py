"""Runs the cells of a plan until none is left, or a budget ends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from ftplug.comparing.artifacts import drop_artifacts
from ftplug.comparing.folder import ARTIFACT, OUTPUT, Folder, drop
from ftplug.comparing.processes.engine import Engine
from ftplug.comparing.results import Cell, Result
from ftplug.comparing.scheduling.budget import Budget
from ftplug.comparing.scheduling.planning import Plan

_LOOK = 0.5  # seconds between two looks at what runs


class Watching(Protocol):
    """Is told what happens, to show it."""

    def started(self, cell: Cell) -> None:
        """A cell has begun."""
        ...

    def ended(self, result: Result) -> None:
        """A cell has ended for good."""
        ...

    def look(self, plan: Plan, engine: Engine, results: Sequence[Result]) -> None:
        """Some time has passed."""
        ...


@dataclass
class Schedule:
    """The cells of a comparison on an engine; what ends is in the folder before the next begins.

    Within ``undisturbed`` nothing may be interrupted: a cell begins, or its line is written.
    """

    folder: Folder
    engine: Engine
    plan: Plan
    watching: Watching
    budget: Budget | None = None
    undisturbed: Callable[[], AbstractContextManager[None]] = nullcontext

    def run(self) -> None:
        """Run what is left to do, in the plan's order.

        Raises :class:`FtplugError` as soon as cells were evaluated on different examples.
        """
        self._check_examples()
        while True:
            self._start()
            if not self.engine.since():
                return
            self.engine.look(self._patience())
            with self.undisturbed():
                self._keep_what_has_ended()
            self.watching.look(self.plan, self.engine, self.folder.results)

    def is_done(self) -> bool:
        """Whether nothing is left to run."""
        return not self._todo()

    def left_out(self) -> list[Cell]:
        """Return the cells that were needed and have not run."""
        return self.plan.left_out(self.folder.results)

    def _start(self) -> None:
        while len(self.engine.since()) < self.engine.jobs:
            running = self.engine.since()
            waiting = [cell for cell in self._todo() if cell not in running]
            if not waiting:
                return
            cell = waiting[0]
            prunes = self.budget is not None and self.plan.is_for_rates(cell)
            with self.undisturbed():
                self.engine.start(cell, prunes=prunes)
            self.watching.started(cell)

    def _todo(self) -> list[Cell]:
        results = self.folder.results
        if self.budget is None:
            return self.plan.todo(results)
        if self.budget.is_for_seeds and self.plan.only is None and not self.plan.is_grid:
            begun = {result.cell for result in results} | self.engine.since().keys()
            self.plan = dataclasses.replace(self.plan, only=frozenset(begun))
        baseline = self.folder.comparison.baseline
        return self.budget.affordable(self.plan.todo(results), results, baseline)

    def _patience(self) -> float:
        return _LOOK if self.budget is None else max(0.0, min(_LOOK, self.budget.left))

    def _keep_what_has_ended(self) -> None:
        ended = self.engine.ended()
        if self.budget and self.budget.left <= 0:
            ended += self.engine.end(f"the budget of {self.budget.minutes:g} minutes had ended")
        for result in ended:
            self._keep(result)

    def _keep(self, result: Result) -> None:
        self.folder.append(result)
        folder = self.folder.cell(result.cell)
        drop(folder, [OUTPUT] if result.status == "finished" else [OUTPUT, ARTIFACT])
        drop_artifacts(self.folder, self.plan)
        self.watching.ended(result)
        self._check_examples()

    def _check_examples(self) -> None:
        """Compare the newest cell with the first one; those between were when they were new."""
        from ftplug.comparing.measurements import refuse_different_examples

        finished = [one for one in self.folder.results if one.outcomes]
        if len(finished) > 1:
            refuse_different_examples(self.folder.path, [finished[0], finished[-1]])
