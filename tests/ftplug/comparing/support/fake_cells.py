"""Cells that train nothing: what ``ftplug compare`` is tested with, and a command that runs them.

``fake_cells.py OUT JOBS SEEDS CANDIDATE…`` is a comparison of theirs in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import Cell, Result
from ftplug.comparing.summary import Judged, Summary

SECONDS = "FAKE_SECONDS"
STARTED = "started.txt"  # a line for each cell that began, in the script's folder


def comparison(folder: Path, *candidates: str, **options: Any) -> Comparison:
    """Return a comparison of candidates; ``lora`` and ``bitfit`` unless they are named."""
    names = candidates or ("lora", "bitfit")
    given = {"baseline": names[0], "key": "0" * 64, "rates": (1e-3,), "seeds": 2} | options
    return Comparison(("train.py",), False, str(folder), tuple(names), **given)


def result(cell: Cell, value: float = 0.5, **facts: Any) -> Result:
    """Return a finished cell's."""
    given = {"status": "finished", "metric": "accuracy", "set": "evaluation", "chosen_by": value}
    given |= {"metrics": {"accuracy": value}, "seconds": 1.0}
    return Result(cell.candidate, cell.lr, cell.seed, **(given | facts))


def value_of(cell: Cell) -> float:
    """Return the metric of a cell: the same each time, another for each cell."""
    return int(cell.id[:6], 16) / 16**6


def sleep(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """Be a cell that takes a moment, evaluates twice and leaves an artifact."""
    with open(Path(comparison.folder) / STARTED, "a", encoding="utf-8") as file:
        file.write(f"{cell.id}\n")
    value, epochs = value_of(cell), []
    for epoch in (1.0, 2.0):
        time.sleep(float(os.environ.get(SECONDS, "0.05")) / 2)
        epochs.append({"epoch": epoch, "metrics": {"accuracy": value * epoch / 2}})
        if not go_on(epoch, value * epoch / 2):
            return result(cell, value, status="pruned", reason="behind", epochs=epochs)
    (folder / "artifact").mkdir()
    (folder / "artifact" / "ftplug.json").write_text(cell.id)
    (folder / "output").mkdir()
    return result(cell, value, epochs=epochs)


def fail_in_some_way(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """End as the candidate's name says."""
    print(f"about to {cell.candidate}")
    if cell.candidate == "freeze":
        raise ValueError("two\nlines")
    if cell.candidate == "bitfit":
        os.kill(os.getpid(), signal.SIGSEGV)
    if cell.candidate == "layernorm":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.candidate == "ia3":
        os._exit(7)
    return result(cell)


def leave_children(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """Start a worker, a program and one apart from both, say who they are, and hang."""
    children = [os.getpid(), subprocess.Popen(["sleep", "600"]).pid]
    children.append(subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    if not (worker := os.fork()):
        time.sleep(600)
    children.append(worker)
    lines = "".join(f"{pid}\n" for pid in [os.getppid(), *children])
    place = Path(comparison.folder) / f"{cell.id}.pids"
    place.with_suffix(".part").write_text(lines)
    place.with_suffix(".part").rename(place)
    time.sleep(600)
    return result(cell)


def leave_a_thread(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """Leave a thread that Python waits for at its end."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return result(cell)


def surroundings(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """Say what a cell finds."""
    import torch

    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "FTPLUG_SHARED_CACHE", "PYTHONHASHSEED")
    found = [f"{name}={os.environ.get(name)}" for name in names]
    found += [f"threads={torch.get_num_threads()}", f"cwd={os.getcwd()}"]
    found += [f"cuda={torch.cuda.is_initialized()}", f"group={os.getpgid(0) == os.getpid()}"]
    return result(cell, notes=found)


def meet(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """Wait until another cell has begun, too."""
    place = Path(comparison.folder)
    (place / f"{cell.id}.here").touch()
    while len(list(place.glob("*.here"))) < 2:
        time.sleep(0.01)
    return result(cell)


def fork_by_a_server(comparison: Comparison, cell: Cell, folder: Path, *, go_on: Any) -> Result:
    """Start a process by multiprocessing's fork server, and say whose it is."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    child = context.Process(target=send_group, args=(theirs,))
    child.start()
    own = ours.recv() == os.getpgid(0)
    child.join()
    return result(cell, notes=["of its own" if own else "of the server that it came from"])


def send_group(pipe: Any) -> None:
    """Send the group of this process."""
    pipe.send(os.getpgid(0))


def choose(comparison: Comparison, results: Any) -> dict[str, float | None]:
    """Stand in for :func:`ftplug.comparing.choosing.chosen_rates`: the rate of the best cell."""
    best: dict[str, Result] = {}
    for one in results:
        if one.status == "finished":
            before = best.get(one.candidate)
            if before is None or one.chosen_by > before.chosen_by:
                best[one.candidate] = one
    return {name: one.lr for name, one in best.items()}


@dataclass
class Edge:
    next_rate: float


def at_edge(results: Any, candidate: str, rate: float | None) -> Edge | None:
    """Stand in for :func:`ftplug.comparing.choosing.at_edge`: ten times further."""
    tried = sorted({one.lr for one in results if one.candidate == candidate and one.lr})
    if rate is None or len(tried) < 2 or rate not in (tried[0], tried[-1]):
        return None
    return Edge(rate / 10 if rate == tried[0] else rate * 10)


def conclude(comparison: Comparison, results: Any, directory: Path) -> Summary:
    """Stand in for :func:`ftplug.comparing.concluding.conclude`: what is best is best."""
    rates = choose(comparison, results)
    rows = [
        Judged(name, rates.get(name), "not_decided" if name in rates else "failed")
        for name in comparison.candidates
    ]
    finished = [one for one in results if one.status == "finished"]
    best = max(finished, key=lambda one: one.chosen_by, default=None)
    name = best.candidate if best else None
    return Summary("accuracy", True, "evaluation", comparison.baseline, 0.01, rows, name)


def write_report(directory: Path, *_: Any) -> Path:
    """Stand in for :func:`ftplug.comparing.report.write_report`."""
    path = directory / "report.html"
    path.write_text("<html>")
    return path


def add_to_artifact(*_: Any) -> None:
    """Stand in for :func:`ftplug.comparing.report.card.add_to_artifact`: these are no artifacts."""


def stand_in(modules: Any = sys.modules) -> None:
    """Put the stand-ins where the command looks for the real ones."""
    from types import ModuleType

    from rich.table import Table

    def terminal_table(summary: Summary, results: Any) -> Table:
        return Table("candidate", title=f"{len(results)} results")

    named = {
        "choosing": {"chosen_rates": choose, "at_edge": at_edge},
        "concluding": {"conclude": conclude},
        "report": {"write_report": write_report},
        "report.card": {"add_to_artifact": add_to_artifact},
        "report.table": {"terminal_table": terminal_table, "notes": lambda summary: []},
    }
    for name, contents in named.items():
        module = ModuleType(f"ftplug.comparing.{name}")
        vars(module).update(contents)
        modules[module.__name__] = module


def main(out: str, jobs: str, seeds: str, kind: str, *names: str) -> int:
    """Run a comparison of fake cells; return the exit code."""
    from ftplug.comparing.processes import warm
    from ftplug.comparing.whole import run_comparison

    warm.PRELOADED[:] = [__name__]  # torch takes seconds
    stand_in()
    wanted = comparison(Path(out).parent, *names, seeds=int(seeds), rates=(1e-4, 1e-3))
    return run_comparison(wanted, Path(out), jobs=int(jobs), run=globals()[kind]).code


if __name__ == "__main__":
    import fake_cells  # its functions go to other processes by this name

    sys.exit(fake_cells.main(*sys.argv[1:]))
