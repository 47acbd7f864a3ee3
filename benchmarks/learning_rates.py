"""Choose each method's learning rate on the validation part, then report the held-out accuracy.

A small sweep: a third of the rate that the method suggests, that rate, and three times it. The rate
with the best validation accuracy is chosen (the lower one of equals), and only its held-out
accuracy is printed: the held-out part chooses nothing. One split, one seed; the standard error of
597 held-out rows is about 1.2 points. Runs are processes of one thread each, ``--jobs`` at once.

    python benchmarks/learning_rates.py --jobs 2 --json learning_rates.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ftplug

# What the demo's model fits, as someone would first try it: a method and its settings.
RUNS = (
    "full",
    "freeze",
    "gradual-unfreezing",
    "lisa",
    "layerwise-lr",
    "bitfit",
    "layernorm",
    "lora",
    "lora use_dora=true",
    "adalora",
    "ia3",
    "vera",
    "bottleneck",
    "reft",
    "prefix-tuning",
    "prompt-tuning",
    "p-tuning",
)
FACTORS = (1 / 3, 1, 3)
FALLBACK = 1e-3  # for a method that suggests none
COLUMNS = ("method", "rates tried: validation accuracy", "chosen", "held out", "trained")


def demo(run: str, rate: float, seed: int) -> dict[str, Any]:
    """Return the result of one ``ftplug demo --json``, or its error."""
    method, *settings = run.split()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ftplug", "demo", "--method", method, "--json"]
        command += [text for setting in settings for text in ("--set", setting)]
        command += ["--lr", f"{rate:.3g}", "--seed", str(seed), "--out", f"{folder}/artifact"]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1], "rate": rate}
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rates(run: str) -> list[float]:
    """Return the rates to try, ascending."""
    cls = ftplug.methods()[run.split()[0]]
    known = cls().suggested_learning_rate()
    return [factor * (known.suggested if known else FALLBACK) for factor in FACTORS]


def row(run: str, results: Sequence[dict[str, Any]]) -> str:
    """Return a line of the table."""
    if failed := [found["error"] for found in results if "error" in found]:
        return f"| `{run}` | {failed[0]} | | | |"
    best = max(results, key=lambda found: found["validation_accuracy"])
    tried = ", ".join(
        f"{found['learning_rate']:.2g}: {found['validation_accuracy']:.3f}" for found in results
    )
    return (
        f"| `{run}` | {tried} | {best['learning_rate']:.2g} | {best['accuracy']:.3f} "
        f"| {best['trained_parameters']:,} |"
    )


def main() -> None:
    """Print one row per method as it is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("runs", nargs="*", default=RUNS)
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    everything: dict[str, Any] = {}
    with ThreadPoolExecutor(options.jobs) as pool:
        pending = {
            run: [pool.submit(demo, run, rate, options.seed) for rate in rates(run)]
            for run in options.runs
        }
        for run, futures in pending.items():
            everything[run] = [future.result() for future in futures]
            print(row(run, everything[run]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(everything, indent=2))


if __name__ == "__main__":
    main()
