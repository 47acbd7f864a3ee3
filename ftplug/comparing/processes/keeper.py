"""Watches the process of one cell: it ends with the command, and an end without a result is told.

It is a process of its own, because a script may hold Python's lock for long, or die of a signal.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from ftplug.comparing.folder import LOG, RESULT, read_result, write_result
from ftplug.comparing.processes.inside import be_cell, failed
from ftplug.comparing.processes.task import Task
from ftplug.comparing.results import Result

_LOOK = 0.1  # seconds between two looks at the cell
_REST = 5.0  # seconds that a cell has for its end once its result lies there
_SHOWN = 300  # characters of a log's last line


def keep(task: Task) -> None:
    """Run a cell in a process that is ended with everything it started when the command ends."""
    command, kills = multiprocessing.parent_process(), oom_kills()
    of_command = [command.sentinel] if command is not None else []  # none in a cluster's job
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    if command is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command answers Ctrl-C
    else:
        signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    process = start_cell(task)
    ended_early, over = False, math.inf
    # A thread that the script left may never end; what it would do is not measured any more.
    while process.is_alive() and not ended_early and time.monotonic() < over:
        woken = connection.wait([process.sentinel, *of_command], _LOOK)
        ended_early = bool(asked) or any(sentinel in woken for sentinel in of_command)
        if over == math.inf and (task.folder / RESULT).is_file():
            over = time.monotonic() + _REST
    end_group(process)
    if not ended_early and read_result(task.folder) is None:
        write_result(task.folder, died(task, process.exitcode or 0, oom_kills() > kills))


def start_cell(task: Task) -> BaseProcess:
    """Start the process of a cell, forked from this one where that is safe."""
    if sys.platform == "linux":
        process: BaseProcess = multiprocessing.get_context("fork").Process(
            target=be_cell, args=(task,), name="cell"
        )
    else:
        process = multiprocessing.get_context("spawn").Process(
            target=be_cell, args=(task,), name="cell"
        )
    process.start()
    return process


def end_group(process: BaseProcess) -> None:
    """Kill a cell, if it still lives, and everything that it started and that lives on."""
    assert process.pid is not None
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    for child in started:
        with suppress(psutil.Error):
            child.kill()
    process.join()


def died(task: Task, code: int, out_of_memory: bool = False) -> Result:
    """Return the result of a cell whose process ended without one."""
    if code == -signal.SIGKILL and out_of_memory:
        result = failed(task, "the system's memory was used up: its out-of-memory killer ended it")
        result.status = "out_of_memory"
        return result
    if code == -signal.SIGKILL:
        how = "killed (SIGKILL): often the system's out-of-memory killer"
    elif code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    else:
        how = f"ended with exit code {code}, without a result"
    last = last_line(task.folder / LOG)
    return failed(task, f"{how}; its last line: {last}" if last else how)


def last_line(path: Path) -> str:
    """Return the last line of a log that says something, cut where it is long."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - 20_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_SHOWN] if lines else ""


def oom_kills() -> int:
    """Return how often the out-of-memory killer was at work, in this control group and at all."""
    group = Path("/sys/fs/cgroup")
    with suppress(OSError):
        group /= Path("/proc/self/cgroup").read_text().strip().rpartition("::/")[2]
    counted = 0
    for path in (group / "memory.events", Path("/proc/vmstat")):
        with suppress(OSError, ValueError):
            words = [line.split() for line in path.read_text().splitlines()]
            counted += sum(int(number) for name, number in words if name == "oom_kill")
    return counted
