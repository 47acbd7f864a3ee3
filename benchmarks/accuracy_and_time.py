"""Draw the README's picture: held-out accuracy of the demo's methods against training time.

Each method trains as in ``ftplug demo --method NAME``, at the learning rate that it suggests, in a
process of its own with one thread (all of it: about ten minutes). Time is CPU time, so that what
else the machine does counts little. What was measured stands in ``docs/accuracy_and_time.json``;
``--only NAME`` renews a few runs, ``--render`` draws from the file alone.

    python benchmarks/accuracy_and_time.py
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import io
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import ftplug

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, PICTURE = DOCS / "accuracy_and_time.json", DOCS / "accuracy_and_time.svg"
COLORS = {
    "trains parameters of the base": "#3d6fb4",
    "adds parameters": "#d1702f",
}


# A method with its settings, and where its label stands beside its point (in typographic points).
RUNS = {
    "full": (-22, 5),
    "freeze": (6, 5),
    "freeze layers=0": (6, 5),
    "bitfit": (6, 5),
    "lora": (6, -12),
    "bottleneck": (-56, 4),
    "prefix-tuning": (-64, -12),
    "prompt-tuning": (-70, -14),
}


def measure(name: str) -> dict[str, Any]:
    """Run the demo with a method; return its accuracy and the CPU seconds that it trained."""
    demo: Any = importlib.import_module("ftplug.demo.run")
    seconds: list[float] = []
    train = demo.train

    def timed(*args: Any, **options: Any) -> None:
        start = time.process_time()
        train(*args, **options)
        seconds.append(time.process_time() - start)

    method, *settings = name.split()
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(demo, "train", timed):
        result = demo.run_demo(
            method,
            dict(text.split("=") for text in settings),
            out=Path(folder, "artifact"),
            progress=False,
            report=False,
        )
    return {
        "learning_rate": result.learning_rate,
        "accuracy": result.accuracy,
        "test_rows": result.test_rows,
        "cpu_seconds": seconds[0],
        "epochs": len(result.epochs),
        "trained_parameters": result.trained_parameters,
        "adds": ftplug.methods()[method].kind == "structure",
    }


def standard_error(found: Mapping[str, Any]) -> float:
    """Return the standard error of an accuracy over so many sentences."""
    p: float = found["accuracy"]
    return math.sqrt(p * (1 - p) / found["test_rows"])


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the picture as SVG; the same results give the same text."""
    import matplotlib

    rc: Any = {
        **matplotlib.rcParamsDefault,  # whatever style the user has set
        "svg.hashsalt": "ftplug",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
    }
    with matplotlib.rc_context(rc):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.2), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, results)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Identifier": digest(results)})
    lines = text.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def digest(results: Mapping[str, Any]) -> str:
    """Return what the picture carries of the results that it shows."""
    return hashlib.sha256(json.dumps(results).encode()).hexdigest()


def _draw(axes: Any, results: Mapping[str, Mapping[str, Any]]) -> None:
    for (label, color), adds in zip(COLORS.items(), (False, True), strict=True):
        shown = [found for found in results.values() if found["adds"] == adds]
        axes.errorbar(
            [found["cpu_seconds"] for found in shown],
            [found["accuracy"] for found in shown],
            yerr=[standard_error(found) for found in shown],
            fmt="o", color=color, ecolor=f"{color}55", label=label,
        )  # fmt: skip
    for name, found in results.items():
        axes.annotate(
            name,
            (found["cpu_seconds"], found["accuracy"]),
            textcoords="offset points", xytext=RUNS[name], fontsize=8,
        )  # fmt: skip
    axes.set_xlabel("training time (CPU seconds of one thread)")
    axes.set_ylabel("accuracy on 597 held-out sentences")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)


def main() -> None:
    """Measure what is asked for, keep it and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="NAME")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in () if options.render else options.only or RUNS:
        spawn = multiprocessing.get_context("spawn")  # a fresh process for each
        with ProcessPoolExecutor(1, spawn) as pool:
            results[name] = pool.submit(measure, name).result()
        print(name, results[name], flush=True)
        known = {run: results[run] for run in RUNS if run in results}
        RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    PICTURE.write_text(render(results), encoding="utf-8")
    print(f"{PICTURE.name} shows {len(results)} runs")


if __name__ == "__main__":
    main()
