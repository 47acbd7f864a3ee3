"""A comparison from end to end: its folder is held, its cells run, what follows is written."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.finishing import Finished, finish
from ftplug.comparing.folder import Folder, opened
from ftplug.comparing.processes.engine import Engine
from ftplug.comparing.processes.task import RunCell, run_script
from ftplug.comparing.scheduling.budget import Budget
from ftplug.comparing.scheduling.live import Shown
from ftplug.comparing.scheduling.planning import Plan, planned_rates
from ftplug.comparing.scheduling.schedule import Schedule

EngineName = Literal["process", "slurm", "slurm-local"]


class Ended(BaseException):
    """A signal has ended the comparison: ``number`` is its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@dataclass(frozen=True)
class Compared:
    """What came of it, the exit code, and the folder as it is now."""

    finished: Finished
    code: int
    folder: Folder


def run_comparison(
    wanted: Comparison,
    directory: Path,
    *,
    jobs: int = 1,
    engine: EngineName = "process",
    run: RunCell = run_script,
) -> Compared:
    """Run what is left of a comparison in its folder, and conclude.

    SIGINT and SIGTERM end the cells; what has ended until then is concluded from, and the code is
    130 or 143. Else it is 0 where a cell has finished and 1 where none has.
    """
    with opened(directory, wanted) as folder:
        schedule = None
        code = 0
        try:
            with Signals() as signals:
                shown, runs = Shown(folder), _engine(engine, folder, jobs, run)
                schedule = _schedule(folder, jobs, runs, shown)
                schedule.undisturbed = signals.withheld
                with shown.shown():
                    if not schedule.is_done():
                        runs.get_ready()
                    schedule.run()
        except Ended as ended:
            code = 128 + ended.number
        finally:
            if schedule is not None:
                schedule.engine.close()
        left_out = schedule.left_out() if schedule is not None else []
        finished = finish(folder, left_out, interrupted=code != 0)
        none = not any(result.status == "finished" for result in folder.results)
        return Compared(finished, code or int(none), folder)


def _schedule(folder: Folder, jobs: int, engine: Engine, shown: Shown) -> Schedule:
    from ftplug.comparing.choosing import at_edge, chosen_rates

    comparison = folder.comparison
    plan = Plan(comparison, planned_rates(comparison), chosen_rates, at_edge)
    budget = None
    if comparison.budget_minutes is not None:
        spent = sum(result.seconds or 0.0 for result in folder.results) / jobs
        budget = Budget(comparison.budget_minutes, spent, _clock(), jobs)
    return Schedule(folder, engine, plan, shown, budget)


def _engine(name: EngineName, folder: Folder, jobs: int, run: RunCell) -> Engine:
    if name == "process":
        from ftplug.comparing.processes.warm import Processes

        return Processes(folder, jobs, run)
    from ftplug.comparing.processes.slurm import Jobs

    return Jobs(folder, jobs, run, cluster="local" if name == "slurm-local" else "slurm")


def _clock() -> Callable[[], float]:
    began = time.monotonic()
    return lambda: time.monotonic() - began


class Signals:
    """Raises :class:`Ended` at the first SIGINT or SIGTERM; a second one does what it would."""

    def __init__(self) -> None:
        self.before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
        self.seen: int | None = None
        self.is_withheld = False

    def __enter__(self) -> Signals:
        for number in self.before:
            signal.signal(number, self._end)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def withheld(self) -> Iterator[None]:
        """Finish what is within before an end: a line and what is known of it belong together."""
        self.is_withheld = True
        try:
            yield
        finally:
            self.is_withheld = False
        if self.seen is not None:
            raise Ended(self.seen)

    def _end(self, number: int, _: FrameType | None) -> None:
        self.__exit__()
        self.seen = number
        if not self.is_withheld:
            raise Ended(number)
