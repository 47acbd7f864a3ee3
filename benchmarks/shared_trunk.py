"""What sharing the trunk's cache saves a sweep over learning rates and seeds, in pairs.

MiniLM on the demo's sentences, dropout 0: a sweep with ``trunk-cache`` and ``FTPLUG_SHARED_CACHE``
in a new folder, then the same without a cache, A B A B …, in CPU seconds of training, evaluation
and checkpoints. Half an hour a pair; ``--rows 150 --rates 2 --seeds 1`` takes two minutes.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import report
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.shared import SHARED_CACHE, computed
from pairs import interleave
from report import Found, Goal
from transformers import EarlyStoppingCallback, set_seed

from ftplug import Method
from ftplug.demo import data, minilm
from ftplug.demo.training import Recipe, make_trainer
from ftplug.quiet import quiet

RATES = (3e-4, 1e-3, 3e-3)
TRAINED = ((0, "head and pooler", 0.25), (2, "top 2 of 6 layers", 0.70))


class Sweep:
    """One run for each rate and seed: their losses, and for how many examples the trunk ran."""

    seconds = 0.0  # of all sweeps

    def __init__(self, options: Any, *methods: Method, shared: bool) -> None:
        self.methods, self.shared, self.options = methods, shared, options
        parts = data.split(data.read_sentences())
        self.parts = parts._replace(
            train=parts.train[: options.rows], validation=parts.validation[: options.rows * 2 // 5]
        )
        self.losses: list[float] = []
        self.ran: list[int] = []

    def __call__(self) -> None:
        """Run all of it."""
        self.losses = []
        with tempfile.TemporaryDirectory() as folder:
            if self.shared:
                os.environ[SHARED_CACHE] = folder
            for rate in RATES[: self.options.rates]:
                for seed in range(self.options.seeds):
                    self.losses += self._run(Recipe(self.options.epochs, seed, rate))
            os.environ.pop(SHARED_CACHE, None)
            self.ran.append(sum(computed(Path(folder)).values()))

    def _run(self, recipe: Recipe) -> Iterator[float]:
        set_seed(recipe.seed)
        with tempfile.TemporaryDirectory() as out, quiet():
            model, tokenizer = minilm.load_base()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            trainer = make_trainer(self.methods, recipe, self.parts, model, tokenizer, out)
            trainer.remove_callback(EarlyStoppingCallback)
            start = time.process_time()
            trainer.train()
            Sweep.seconds += time.process_time() - start
        for entry in trainer.state.log_history:
            yield from (entry[name] for name in ("loss", "eval_loss") if name in entry)


def measure(found: Found, count: int, options: Any) -> None:
    """Compare sweeps of the head alone, and of the top layers."""
    torch.set_num_threads(1)
    examples = sum(map(len, (Sweep(options, shared=False).parts)[:2]))
    cells = f"{options.rates} rates, {options.seeds} seeds, {options.epochs} epochs"
    for layers, what, goal in TRAINED:
        if layers not in options.layers:
            continue
        plain = Sweep(options, Freeze(layers=layers), shared=False)
        sharing = Sweep(options, Freeze(layers=layers), TrunkCache(), shared=True)
        compared = interleave(sharing, plain, count, warm_up=0, clock=lambda: Sweep.seconds)
        found.ratio(f"{what}, {cells}: `trunk-cache`, shared", "without a cache", compared, "s",
                    Goal("≤", goal))  # fmt: skip
        gap = max(abs(a - b) for a, b in zip(plain.losses, sharing.losses, strict=True))
        found.figure(f"{what}: largest difference of a logged loss, shared", gap, "",
                     Goal("≤", 1e-5))  # fmt: skip
        found.figure(f"{what}: runs of the trunk for each of {examples:,} examples",
                     max(sharing.ran) / examples, "times", Goal("≤", 1))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    for name, default in (("rates", 3), ("seeds", 3), ("epochs", 5), ("rows", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2])
    options, sys.argv[1:] = parser.parse_known_args()
    report.main(__doc__, functools.partial(measure, options=options), pairs=3)
