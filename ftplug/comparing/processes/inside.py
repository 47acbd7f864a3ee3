"""What the process of a cell does: it runs the script, leaves its result and ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver

from ftplug.comparing.folder import LOG, PROGRESS, write_result
from ftplug.comparing.processes.task import Task
from ftplug.comparing.results import Result
from ftplug.comparing.scheduling.pruning import Pruning
from ftplug.errors import one_line


def be_cell(task: Task) -> None:
    """Run a cell in this process, apart from the terminal; its result lies in its folder."""
    if hasattr(os, "setsid"):
        os.setsid()  # what the script starts is ended with it, and Ctrl-C is the command's alone
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _write_to(task)
    for name, value in task.environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    os.chdir(task.comparison.folder)
    _be_no_child_of_the_server()
    if task.threads is not None:
        import torch

        torch.set_num_threads(task.threads)
    try:
        write_result(task.folder, _result(task))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def failed(task: Task, reason: str) -> Result:
    """Return the result of a cell that measured nothing."""
    cell = dataclasses.asdict(task.cell)
    return Result(**cell, status="failed", reason=reason)


def _result(task: Task) -> Result:
    try:
        return task.run(task.comparison, task.cell, task.folder, go_on=_go_on(task))
    except Exception as error:
        traceback.print_exc()
        return failed(task, f"{type(error).__name__}: {one_line(error)}")


def _go_on(task: Task) -> Callable[[float, float], bool]:
    pruning = Pruning(task.directory, task.cell) if task.prunes else None

    def go_on(epoch: float, value: float) -> bool:
        with open(task.folder / PROGRESS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"epoch": epoch, "value": value}) + "\n")
        return pruning is None or pruning.goes_on(epoch, value)

    return go_on


def _write_to(task: Task) -> None:
    """Let all that this process and its children print go into the cell's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(task.folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)


def _be_no_child_of_the_server() -> None:
    """Forget the server: a script's own processes must be the cell's, to be ended with it."""
    forkserver.ForkServer.__init__(forkserver._forkserver)
