"""Run the demo once for each method and print the table of docs/methods.md.

    python benchmarks/demo_table.py

Each run is a process of its own, so that its peak memory is its own. Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any

# Methods by name alone get the suggested learning rate; freeze trains two layers, or the head.
RUNS: tuple[tuple[str, ...], ...] = (
    ("full",),
    ("freeze",),
    ("freeze", "trunk-cache"),
    ("freeze", "freeze.layers=0"),
    ("freeze", "trunk-cache", "freeze.layers=0"),
    ("lora",),
    ("bottleneck",),
    ("prefix-tuning",),
    ("prompt-tuning",),
)

COLUMNS = (
    "method",
    "learning rate",
    "held-out accuracy",
    "trained",
    "share",
    "train s",
    "peak MiB",
    "weights kB",
)


def run(words: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Return the result of one ``ftplug demo --json`` with these methods and settings."""
    command = [sys.executable, "-m", "ftplug", "demo", "--json"]
    for word in words:
        command += ["--set" if "=" in word else "--method", word]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--seed", str(seed), "--out", f"{folder}/artifact"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Print one row per run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| " + " | ".join(COLUMNS) + " |")
    print("|---" * len(COLUMNS) + "|")
    for words in RUNS:
        r = run(words, options.seed)
        name = " ".join(f"`{word}`" for word in words)
        print(
            f"| {name} | {r['learning_rate']:g} | {r['accuracy']:.3f} "
            f"| {r['trained_parameters']:,} | {r['trained_share']:.2%} | {r['seconds']:.0f} "
            f"| {r['peak_memory_bytes'] / 2**20:.0f} | {r['weights_bytes'] / 1000:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
