"""``ftplug.load`` of LoRA on MiniLM with its probe asked once more, beside not asking.

python benchmarks/probing/load.py --pairs 20    # medians of CPU seconds, A B A B, and their ratio

Both ways load the base from its folder, as who serves an artifact does, and onto a base that is
there already.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import pairs  # noqa: E402


def main() -> None:
    """Print the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20, help="How many times each way is timed.")
    parser.add_argument("--method", default="lora")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        artifact = saved(Path(folder, "artifact"), options.method)
        for what, base in (("base from its folder", None), ("base in memory", minilm())):
            compared = measured(artifact, base, options.pairs)
            ms = [1e3 * s for s in (compared.median_a, compared.median_b)]
            print(f"{what}: {ms[0]:.0f} ms with the probe, {ms[1]:.0f} ms without: {compared}")


def measured(artifact: Path, base: Any, count: int) -> pairs.Paired:
    """Time both ways in turn; the copy of a base that is in memory is not counted."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(count + 1):  # the first one warms up
        for asked, of in seconds.items():
            of.append(timed(loading(artifact, copy.deepcopy(base), asked)))
    return pairs.compare(seconds[True][1:], seconds[False][1:])


def loading(artifact: Path, base: Any, asked: bool) -> Callable[[], Any]:
    """Return what loads the artifact."""
    import ftplug
    from ftplug.demo.minilm import model_directory

    where = base if base is not None else model_directory()
    return lambda: ftplug.load(where, artifact, check_effect=asked, force=True)


def timed(what: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    start = time.process_time()
    what()
    return time.process_time() - start


def minilm() -> Any:
    """Return MiniLM with a fresh head."""
    from ftplug.demo.minilm import load_base

    return load_base()[0]


def saved(folder: Path, method: str) -> Path:
    """Save an artifact with a probe."""
    import ftplug
    from ftplug.effect.probe import FILE
    from ftplug.testing.compare import shake

    model = minilm()
    ftplug.apply(model, method)
    shake(model)
    ftplug.save(model, folder)
    assert (folder / FILE).is_file()
    return folder


if __name__ == "__main__":
    main()
