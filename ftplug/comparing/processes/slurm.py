"""Runs cells as jobs of a Slurm cluster, through submitit; the folder must be seen by all nodes.

Jobs outlive a command that is killed: what they leave is taken up when it starts again, and those
that still run are cancelled then, before their cells begin anew.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ftplug.comparing.folder import RESULT, Folder, pruned, read_result
from ftplug.comparing.processes.inside import failed
from ftplug.comparing.processes.keeper import keep
from ftplug.comparing.processes.task import CACHE, SHARED_CACHE, RunCell, Task, run_script
from ftplug.comparing.results import Cell, Result
from ftplug.errors import FtplugError

_JOB = "job.txt"  # its number, in the cell's folder
_LONGEST = 24 * 60  # minutes of a job, where neither a budget nor SBATCH_TIMELIMIT says
_GRACE = 10.0  # seconds in which a file that a node has written is seen here
_LOOK = 0.2


@dataclass
class Submitted:
    """A cell's job, since when, and since when it is seen to have ended without a result."""

    task: Task
    job: Any
    since: float
    gone: float | None = None


@dataclass
class Jobs:
    """At most ``jobs`` jobs at a time; ``cluster`` is ``slurm``, or ``local`` for this machine."""

    folder: Folder
    jobs: int = 1
    run: RunCell = run_script
    cluster: str = "slurm"
    submitted: dict[Cell, Submitted] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            import submitit
        except ImportError:
            raise FtplugError(
                "--engine slurm needs submitit: pip install 'ftplug[slurm]'"
            ) from None
        if self.cluster == "slurm" and shutil.which("sbatch") is None:
            raise FtplugError("--engine slurm: no sbatch here: start it where jobs are submitted")
        place = self.folder.path.resolve() / "jobs"
        self.executor = submitit.AutoExecutor(folder=place, cluster=self.cluster)
        budget = self.folder.comparison.budget_minutes
        minutes = _LONGEST if budget is None else math.ceil(budget)
        self.executor.update_parameters(name="ftplug-compare", timeout_min=minutes)

    def start(self, cell: Cell, *, prunes: bool) -> None:
        """Submit a cell's job; one that is left of a killed command is cancelled."""
        self._cancel_earlier(cell)
        place = self.folder.empty(cell)
        directory = self.folder.path.resolve()
        environment = {SHARED_CACHE: str(directory / CACHE)}
        comparison = self.folder.comparison
        task = Task(comparison, cell, directory, self.run, environment, prunes=prunes)
        job = self.executor.submit(keep, task)
        (place / _JOB).write_text(job.job_id, encoding="utf-8")
        self.submitted[cell] = Submitted(task, job, time.monotonic())

    def get_ready(self) -> None:
        """Nothing: jobs begin when the cluster lets them."""

    def look(self, seconds: float) -> None:
        """Wait until a cell has left its result, for at most so many seconds."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if any((one.task.folder / RESULT).is_file() for one in self.submitted.values()):
                return
            time.sleep(min(_LOOK, left))

    def ended(self) -> list[Result]:
        """Return the results of cells that have ended since this was asked."""
        return [r for one in list(self.submitted.values()) if (r := self._result(one))]

    def since(self) -> dict[Cell, float]:
        """Return the cells that are submitted, and for how many seconds each has been."""
        now = time.monotonic()
        return {cell: now - one.since for cell, one in self.submitted.items()}

    def end(self, reason: str) -> list[Result]:
        """Cancel all jobs; return what their cells reached, as pruned for a reason."""
        ended = []
        for cell, one in list(self.submitted.items()):
            one.job.cancel(check=False)
            result = read_result(one.task.folder) or pruned(self.folder, cell, reason)
            ended.append(self._took(one, result))
        return ended

    def close(self) -> None:
        """Cancel all jobs: their cells run again."""
        for one in self.submitted.values():
            one.job.cancel(check=False)
        self.submitted.clear()

    def _result(self, one: Submitted) -> Result | None:
        if (result := read_result(one.task.folder)) is not None:
            return self._took(one, result)
        if not one.job.done():
            return None
        one.gone = one.gone or time.monotonic()
        if time.monotonic() - one.gone < _GRACE:
            return None
        said = (one.job.stderr() or "").strip().splitlines()
        last = f"; its last line: {said[-1][:300]}" if said else ""
        job = f"job {one.job.job_id} ended as {one.job.state} without a result{last}"
        return self._took(one, failed(one.task, job))

    def _took(self, one: Submitted, result: Result) -> Result:
        result.seconds = time.monotonic() - one.since
        del self.submitted[one.task.cell]
        return result

    def _cancel_earlier(self, cell: Cell) -> None:
        if self.cluster == "slurm":
            with suppress(OSError):
                number = (self.folder.cell(cell) / _JOB).read_text(encoding="utf-8")
                subprocess.run(["scancel", number], check=False, capture_output=True)
