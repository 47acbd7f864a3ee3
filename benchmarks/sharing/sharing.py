"""Many LoRA artifacts on one MiniLM in memory: what they cost, what they answer, how fast.

python benchmarks/sharing/sharing.py    # twenty artifacts, one core: each figure and its bound

Memory is what this process has resident (VmRSS), before and after the models are loaded. Speed is
that of calls which go round all models, beside as many calls of one model that was loaded alone,
in turn (A B A B …). A bound that is missed is marked, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import itertools
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import pairs  # noqa: E402

MIB = 2**20
SLOWER = 1.03  # calls of many models, against as many of one
MORE = 1.10  # of memory, against base and artifacts


def main() -> int:
    """Print the figures; 1 where one is beyond its bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--artifacts", type=int, default=20, help="How many (20).")
    parser.add_argument("--pairs", type=int, default=40, help="How often each way is timed (40).")
    parser.add_argument("--threads", type=int, default=8, help="How many ask at once (8).")
    parser.add_argument("--calls", type=int, default=200, help="How many times each (200).")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        good = measured(Path(folder), options)
    return 0 if good else 1


def measured(folder: Path, options: argparse.Namespace) -> bool:
    """Print each figure; whether all are within their bounds."""
    import ftplug

    artifacts = [saved(folder / str(n), n) for n in range(options.artifacts)]
    base = minilm()
    answer(base, 0)  # all of it is in memory
    ftplug.load(base, artifacts[0], share_base=True)  # what loading keeps, whatever is loaded
    before = resident()
    models = [ftplug.load(base, artifact, share_base=True) for artifact in artifacts]
    used = resident() - before
    within = [memory(base, artifacts, used), alike(base, artifacts, models)]
    within.append(speed(base, artifacts, models, options.pairs))
    within.append(threads(models[:4], options.threads, options.calls))
    return all(within)


def memory(base: Any, artifacts: list[Path], used: int) -> bool:
    """Compare base and what the models took with base and artifacts."""
    weights = sum(p.numel() * p.element_size() for p in base.parameters())
    held = sum(f.stat().st_size for a in artifacts for f in a.glob("*.safetensors"))
    ratio = (weights + used) / (weights + held)
    print(
        f"memory: base {weights / MIB:.1f} MiB, {len(artifacts)} models {used / MIB:.1f} MiB more, "
        f"their artifacts {held / MIB:.1f} MiB: {ratio:.3f} of base and artifacts"
    )
    return within("memory", ratio, MORE)


def alike(base: Any, artifacts: list[Path], models: list[Any]) -> bool:
    """Compare every model's answers with those of the artifact loaded alone."""
    import torch

    import ftplug

    differing = 0
    for artifact, model in zip(artifacts, models, strict=True):
        alone = ftplug.load(copy.deepcopy(base), artifact)
        differing += not torch.equal(answer(alone, 0), answer(model, 0))
    print(f"answers: {len(models) - differing} of {len(models)} bit-equal to the artifact alone")
    return differing == 0


def speed(base: Any, artifacts: list[Path], models: list[Any], count: int) -> bool:
    """Time calls that go round all models beside as many of one that was loaded alone."""
    import ftplug

    alone = ftplug.load(copy.deepcopy(base), artifacts[0])

    def of_all() -> None:
        for model in models:
            answer(model, 0)

    def of_one() -> None:
        for _ in models:
            answer(alone, 0)

    found = pairs.interleave(of_all, of_one, count, clock=time.process_time)
    rates = [len(models) / seconds for seconds in (found.median_a, found.median_b)]
    print(
        f"speed: {rates[0]:.1f} calls a second of all models, {rates[1]:.1f} of one loaded alone "
        f"(CPU seconds): time {found}"
    )
    return within("speed", found.ratio, SLOWER)


def threads(models: list[Any], count: int, calls: int) -> bool:
    """Ask some models from many threads at once, and compare with what each answers by itself."""
    import torch

    seeds = range(4)
    expected = [[answer(model, seed) for seed in seeds] for model in models]

    def ask(thread: int) -> int:
        order = itertools.islice(itertools.count(thread), calls)
        which = [(n % len(models), n // len(models) % len(seeds)) for n in order]
        return sum(not torch.equal(answer(models[m], s), expected[m][s]) for m, s in which)

    with ThreadPoolExecutor(count) as pool:
        differing = sum(pool.map(ask, range(count)))
    print(
        f"threads: {count * calls - differing} of {count * calls} answers of {len(models)} models "
        f"from {count} threads bit-equal"
    )
    return differing == 0


def within(what: str, ratio: float, bound: float) -> bool:
    """Say where a figure is beyond its bound."""
    if ratio > bound:
        print(f"{what}: MISSED: {ratio:.3f} is more than {bound:g}")
    return ratio <= bound


def answer(model: Any, seed: int) -> Any:
    """Return logits of two rows of 16 tokens."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, 20000, (2, 16), generator=draw)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def minilm() -> Any:
    """Return MiniLM with a head that is always the same, in memory and not mapped from its file.

    So the one that is loaded alone has the same kind of memory as the shared one.
    """
    import torch

    from ftplug.demo.minilm import load_base

    torch.manual_seed(0)
    return copy.deepcopy(load_base()[0]).eval()


def saved(folder: Path, number: int) -> Path:
    """Save a LoRA artifact that is unlike the others."""
    import ftplug
    from ftplug.testing.compare import shake

    model = shake(ftplug.apply(minilm(), "lora", r=8), 0.02 * (number + 1))
    return ftplug.save(model, folder, probe=False)


def resident() -> int:
    """Return the bytes of this process that are in memory; what is freed is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    raise SystemExit(main())
