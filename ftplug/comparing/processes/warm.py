"""Runs cells in processes of their own, forked from a server that has imported everything.

Where forking a process that has imported torch is not safe (not on Linux) each imports for itself.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from multiprocessing.process import BaseProcess

import psutil

from ftplug.comparing.folder import Folder, pruned, read_result
from ftplug.comparing.processes.keeper import died, keep
from ftplug.comparing.processes.task import CACHE, SHARED_CACHE, RunCell, Task, run_script
from ftplug.comparing.results import Cell, Result

PRELOADED = ["ftplug.comparing.processes.imports"]  # what the server imports
_SERVER_DIED = 255  # multiprocessing's exit code of a process whose server is gone
FORKS = sys.platform == "linux"
_SERVER = {
    "OPENBLAS_NUM_THREADS": "1",  # numpy's and scipy's would start threads when imported
    "PYTHONHASHSEED": "0",  # sets are in one order in all cells, those of a second start included
    "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's would start one, too
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # a GPU is looked for without touching it
}


@dataclass
class Running:
    """A cell that runs: its keeper, the slot that it takes, and since when, in seconds."""

    task: Task
    process: BaseProcess
    slot: int
    since: float


@dataclass
class Processes:
    """At most ``jobs`` cells at a time; of several each has a GPU, where there are any."""

    folder: Folder
    jobs: int = 1
    run: RunCell = run_script
    running: dict[Cell, Running] = field(default_factory=dict)
    lost: set[Cell] = field(default_factory=set)  # cells whose server was killed

    def __post_init__(self) -> None:
        self.gpus = visible_gpus() if self.jobs > 1 else []
        start_server()

    def start(self, cell: Cell, *, prunes: bool) -> None:
        """Begin a cell in an empty folder."""
        self.folder.empty(cell)
        slot = min(set(range(self.jobs)) - {one.slot for one in self.running.values()})
        task = Task(
            self.folder.comparison,
            cell,
            self.folder.path.resolve(),
            self.run,
            self._environment(slot),
            self._threads(),
            prunes,
        )
        process = started(keep, task)
        self.running[cell] = Running(task, process, slot, time.monotonic())

    def get_ready(self) -> None:
        """Wait until the server has imported everything."""
        started(_nothing).join()

    def look(self, seconds: float) -> None:
        """Wait until a cell has ended, for at most so many seconds."""
        connection.wait([one.process.sentinel for one in self.running.values()], seconds)

    def ended(self) -> list[Result]:
        """Return the results of cells that have ended since this was asked."""
        ended = [one for one in self.running.values() if not one.process.is_alive()]
        lost = [one for one in ended if self._is_lost(one)]
        for one in lost:
            self._give_up(one)
        return [self._ended(one) for one in ended if one not in lost]

    def since(self) -> dict[Cell, float]:
        """Return for how many seconds each running cell has run."""
        now = time.monotonic()
        return {cell: now - one.since for cell, one in self.running.items()}

    def end(self, reason: str) -> list[Result]:
        """End all cells; return what they reached, as pruned for a reason."""
        ended = []
        for one in list(self.running.values()):
            one.process.terminate()
            one.process.join()
            finished = read_result(one.task.folder)
            ended.append(self._ended(one) if finished else self._pruned(one, reason))
        return ended

    def close(self) -> None:
        """End all cells, without a word of them: they run again."""
        for one in self.running.values():
            one.process.terminate()
        for one in self.running.values():
            one.process.join()
        self.running.clear()

    def _ended(self, one: Running) -> Result:
        result = read_result(one.task.folder) or died(one.task, one.process.exitcode or 0)
        result.seconds = time.monotonic() - one.since
        del self.running[one.task.cell]
        return result

    def _is_lost(self, one: Running) -> bool:
        """Whether the server was killed, so that nobody can tell how a cell ends; once a cell."""
        server_died = one.process.exitcode == _SERVER_DIED
        known = one.task.cell in self.lost or read_result(one.task.folder) is not None
        return server_died and not known

    def _give_up(self, one: Running) -> None:
        """End a cell whose keeper outlived the server; without a result it runs again."""
        self.lost.add(one.task.cell)
        with suppress(psutil.Error):
            keeper = psutil.Process(one.process.pid)
            keeper.terminate()
            keeper.wait()
        del self.running[one.task.cell]

    def _pruned(self, one: Running, reason: str) -> Result:
        result = pruned(self.folder, one.task.cell, reason)
        result.seconds = time.monotonic() - one.since
        del self.running[one.task.cell]
        return result

    def _environment(self, slot: int) -> Mapping[str, str | None]:
        given: dict[str, str | None] = {name: os.environ.get(name) for name in _SERVER}
        given[SHARED_CACHE] = str(self.folder.path.resolve() / CACHE)
        if self.gpus:
            given["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        if (threads := self._threads()) is not None:
            given["OMP_NUM_THREADS"] = str(threads)  # of what the script starts
        return given

    def _threads(self) -> int | None:
        """Return torch's threads in a cell: a share of the cores, unless somebody has said."""
        if self.jobs == 1 or "OMP_NUM_THREADS" in os.environ:
            return None
        return max(1, _cores() // self.jobs)


def start_server() -> None:
    """Let the server begin to import, unless it has; where none is used, nothing."""
    if FORKS:
        forkserver.set_forkserver_preload(PRELOADED)
        with _environment(_SERVER):
            forkserver.ensure_running()


def started(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process from the server."""
    if FORKS:
        process: BaseProcess = multiprocessing.get_context("forkserver").Process(
            target=target, args=arguments
        )
    else:
        process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
    process.start()
    return process


def _nothing() -> None:
    """What a process does that is started to see whether one can be."""


def visible_gpus() -> list[str]:
    """Return the GPUs that a cell may be given, as ``CUDA_VISIBLE_DEVICES`` names them."""
    if (said := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [one.strip() for one in said.split(",") if one.strip() not in ("", "-1")]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set variables that nobody has set, within."""
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
