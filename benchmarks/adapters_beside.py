"""Compare a step of ``bottleneck`` with one of the library ``adapters``, in shares of a full step.

``adapters`` needs another transformers than ftplug, so it runs in a process of its own, from the
environment that ``make bench`` builds. A step of full fine-tuning is measured in both: how much of
it a bottleneck takes can be compared where seconds cannot. Four steps in turn: full and bottleneck
here, full and bottleneck there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import pairs
import report
import torch
from report import Found
from steps import held, in_both_orders, in_turn
from training_steps import ARMS

from ftplug.quiet import quiet

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("FTPLUG_ADAPTERS", HERE.parent / ".venv/adapters/bin/python"))
PAIRS_PER_ROUND = 3
OURS = {"full": ARMS["full"], "bottleneck": ARMS["`bottleneck` (Houlsby /16)"]}


@contextmanager
def peer(kinds: Sequence[str]) -> Iterator[Callable[[str], float]]:
    """Give a function that takes a step in the other environment and returns its CPU seconds."""
    command = [str(PYTHON), str(HERE / "adapters_worker.py"), *kinds]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin
        assert process.stdout

        def step(kind: str) -> float:
            print(kind, file=process.stdin, flush=True)
            return float(process.stdout.readline())  # type: ignore[union-attr]

        yield step
        process.stdin.close()


def one_round(kinds: Sequence[str], count: int) -> dict[str, list[float]]:
    """Build both kinds here and there in this order; return the seconds of steps by place."""
    taken: dict[str, list[float]] = {
        f"{place} {k}": [] for place in ("here", "there") for k in OURS
    }
    with held([OURS[kind] for kind in kinds]) as running, peer(kinds) as step:
        for _ in range(count):
            for kind, seconds in in_turn(dict(zip(kinds, running, strict=True)), 1).items():
                taken[f"here {kind}"] += seconds
            for kind in kinds:
                taken[f"there {kind}"].append(step(kind))
    return taken


def measure(found: Found, count: int) -> None:
    """Compare the two shares of a full step."""
    if not PYTHON.exists():
        sys.exit(f"{PYTHON} is missing: make .venv/adapters/installed, or FTPLUG_ADAPTERS=PYTHON")
    torch.set_num_threads(1)
    shares: dict[str, list[float]] = {"here": [], "there": []}
    with quiet():
        while len(shares["here"]) < count:
            steps = min(PAIRS_PER_ROUND, count - len(shares["here"]))
            taken = in_both_orders(partial(one_round, count=steps), list(OURS))
            for place, share in shares.items():
                both = zip(taken[f"{place} bottleneck"], taken[f"{place} full"], strict=True)
                share += (bottleneck / full for bottleneck, full in both)
    compared = pairs.compare(shares["here"], shares["there"])
    found.ratio("`bottleneck`: share of a full step", "the same in adapters 1.3.0", compared, "")


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=18)
