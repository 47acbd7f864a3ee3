"""What a comparison shows while it runs: a live table on a terminal, else a line for each cell."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ftplug.comparing.folder import Folder, read_progress
from ftplug.comparing.processes.engine import Engine
from ftplug.comparing.results import CELLS, FILE, Cell, Result
from ftplug.comparing.scheduling.planning import Plan

_EVERY = 1.0  # seconds between two drawings


@dataclass
class Shown:
    """Shows a comparison on standard error, where it does not mix with what it prints."""

    folder: Folder
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    live: Live | None = None
    drawn: float = 0.0
    begun: int = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show within."""
        self.begun = len(self.folder.results)
        if self.begun:
            self._say(f"{self.begun} cells had ended before: they are kept{_failed(self.folder)}")
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False) as self.live:
            yield
        self.live = None

    def started(self, cell: Cell) -> None:
        """Nothing: the table shows what runs."""

    def ended(self, result: Result) -> None:
        """Say how a cell ended, where there is no table; what went wrong also beside it."""
        if self.live is None or result.status in ("failed", "diverged", "out_of_memory"):
            self._say(line(result, len(self.folder.results)))

    def look(self, plan: Plan, engine: Engine, results: Sequence[Result]) -> None:
        """Draw the table anew."""
        now = time.monotonic()
        if self.live is not None and now - self.drawn >= _EVERY:
            self.drawn = now
            self.live.update(table(self.folder, plan, engine, results), refresh=True)

    def _say(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def _failed(folder: Folder) -> str:
    """Say of cells that have failed what runs them again."""
    count = sum(result.status == "failed" for result in folder.results)
    again = f"their lines in {FILE} and their folders in {CELLS}/ removed, they run again"
    return f"; {count} of them failed: with {again}" if count else ""


def line(result: Result, number: int) -> str:
    """Return a cell that has ended as one line."""
    value = "" if result.chosen_by is None else f", {result.metric} {result.chosen_by:.4f}"
    took = "" if result.seconds is None else f", {seconds_in_words(result.seconds)}"
    why = f": {result.reason}" if result.reason else ""
    return f"{number}. {named(result.cell)}: {result.status}{value}{took}{why}"


def named(cell: Cell) -> str:
    """Return what a cell is called."""
    rate = "" if cell.lr is None else f" lr {cell.lr:g}"
    return f"{cell.candidate}{rate} seed {cell.seed}"


def table(folder: Folder, plan: Plan, engine: Engine, results: Sequence[Result]) -> Table:
    """Return what runs, what is done, the best so far and the time left."""
    running = engine.since()
    drawn = Table(box=None, pad_edge=False, caption=_caption(plan, engine, results))
    drawn.caption_justify = "left"
    for heading in ("candidate", "done", "best so far", "running"):
        drawn.add_column(heading, overflow="fold")
    for candidate in folder.comparison.candidates:
        own = [result for result in results if result.candidate == candidate]
        cells = [
            f"lr {cell.lr or 0:g} seed {cell.seed}{_progress(folder, cell)}, "
            f"{seconds_in_words(seconds)}"
            for cell, seconds in running.items()
            if cell.candidate == candidate
        ]
        row = (candidate, str(len(own)), _best(own), "; ".join(cells))
        drawn.add_row(*map(Text, row))
    return drawn


def seconds_left(plan: Plan, engine: Engine, results: Sequence[Result]) -> float | None:
    """Return the seconds until all cells have ended, as the finished ones were; None before one."""
    known = [r.seconds for r in results if r.seconds is not None and r.status == "finished"]
    if not known:
        return None
    left = max(0, plan.most(results) - len(results))
    ran = sum(engine.since().values())
    return max(0.0, left * statistics.fmean(known) - ran) / engine.jobs


def seconds_in_words(seconds: float) -> str:
    """Return a duration as a person says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _caption(plan: Plan, engine: Engine, results: Sequence[Result]) -> Text:
    left = seconds_left(plan, engine, results)
    ends = "" if left is None else f", about {seconds_in_words(left)} left"
    most = max(plan.most(results), len(results))
    return Text(f"{len(results)} of {most} cells{ends}. Ctrl-C ends it with a report so far.")


def _best(results: Sequence[Result]) -> str:
    sign = 1 if all(result.greater_is_better for result in results) else -1
    known = [(sign * r.chosen_by, r) for r in results if r.chosen_by is not None]
    if not known:
        return ""
    best = max(known, key=lambda one: one[0])[1]
    return f"{best.metric} {best.chosen_by:.4f}" + ("" if best.lr is None else f" at {best.lr:g}")


def _progress(folder: Folder, cell: Cell) -> str:
    seen = read_progress(folder.cell(cell))
    return f", epoch {seen[-1][0]:g}: {abs(seen[-1][1]):.4f}" if seen else ""
