"""Kill ``ftplug compare`` on the demo's data at random moments; it ends as one left alone.

    python tests/soak/kill_a_comparison.py --kills 5 --seed 1 -- --limit 96 --epochs 1

Eight candidates, three rates, three seeds: the command alone gets SIGKILL (its server and its cells
must end with it), and the same command is started again. Arguments after ``--`` are the demo's.

Exits with 1 where a cell that had ended is run or written again, where a process outlives its
command, or where the summary is other than that of a comparison which nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
RATES = "1e-4,1e-3,1e-2"
ALONE = ("pareto", "more_seeds")  # costs differ from run to run: what they decide is not compared
PATIENCE = 10.0  # seconds that what is left of a command has to end


def command(out: Path, demo: list[str], jobs: int) -> list[str]:
    """Return the comparison: the whole grid."""
    options = ["--try", "default", "--lr", RATES, "--seeds", "3", "--jobs", str(jobs)]
    return [sys.executable, "-m", "ftplug", "compare", *options, "--out", str(out), "--", *demo]


def ended_cells(out: Path) -> dict[str, int]:
    """Return the lines of what has ended, and when its folder's result was written."""
    path = out / "results.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = text.split("\n")[:-1]
    if len(set(lines)) < len(lines):
        raise SystemExit("a line of results.jsonl stands there twice")
    return {line: _written(out, json.loads(line)) for line in lines}


def _written(out: Path, line: dict[str, Any]) -> int:
    from ftplug.comparing.results import Cell

    cell = Cell(line["candidate"], line["lr"], line["seed"])
    return (out / "cells" / cell.id / "result.json").stat().st_mtime_ns


def kill(running: subprocess.Popen[bytes]) -> list[str]:
    """Kill a command alone; return the processes below it that outlive it."""
    below = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(below, timeout=PATIENCE)
    return [" ".join(process.cmdline())[:80] for process in alive]


def compared(out: Path) -> dict[str, Any]:
    """Return what a summary says apart from what hangs on time."""
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    rows = [{k: v for k, v in r.items() if k not in ALONE} for r in summary["candidates"]]
    return summary | {"candidates": rows}


def main() -> int:
    """Kill, go on, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept; a temporary one by default")
    parser.add_argument("demo", nargs="*")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = asked.folder or Path(temporary)
        root.mkdir(exist_ok=True, parents=True)
        alone, killed = root / "alone", root / "killed"
        start = time.monotonic()
        with (root / "log.txt").open("ab") as log:
            subprocess.run(command(alone, asked.demo, asked.jobs), check=True, stderr=log)
            seconds = time.monotonic() - start
            faults = _kill_at_random(killed, asked, seconds, log)
        if compared(alone) != compared(killed):
            faults.append("the summary is another one")
        cells = len(ended_cells(killed))
    print(f"{cells} cells, {seconds:.0f} s alone, {asked.kills} kills: {len(faults)} faults")
    print("\n".join(faults), end="")
    return bool(faults)


def _kill_at_random(out: Path, asked: argparse.Namespace, seconds: float, log: Any) -> list[str]:
    draw, faults, before = random.Random(asked.seed), [], dict[str, int]()
    for at in range(asked.kills + 1):
        running = subprocess.Popen(command(out, asked.demo, asked.jobs), stderr=log)
        if at < asked.kills:
            time.sleep(draw.uniform(0.3, 1.7) * seconds / (asked.kills + 1))
        if at < asked.kills and running.poll() is None:
            faults += [f"kill {at + 1}: outlived: {left}" for left in kill(running)]
        elif code := running.wait():
            faults.append(f"start {at + 1}: ended with {code}")
        now = ended_cells(out)
        print(f"start {at + 1}: {len(now)} cells have ended", flush=True)
        if any(now.get(line) != when for line, when in before.items()):
            faults.append(f"start {at + 1}: a cell that had ended was written again")
        before = now
    return faults


if __name__ == "__main__":
    sys.exit(main())
