"""What sharing the trunk's cache saves a sweep over learning rates and seeds, in pairs.

MiniLM on the demo's sentences, dropout 0, the three learning rates that ``ftplug compare`` tries: a
sweep with ``trunk-cache`` and ``FTPLUG_SHARED_CACHE`` in a new folder, then the same without a
cache, A B A B …, in CPU seconds of training, evaluation and checkpoints. The logged losses of both
are compared for each rate. So are, as the control, those of a sweep without a cache whose batches
are padded to one width instead of their longest row: what padding alone does to losses is rounding,
and no cache can be held to less. Half an hour a pair; ``--rows 150 --rates 2 --seeds 1`` takes two
minutes.
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
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, set_seed

from ftplug import Method
from ftplug.demo import data, minilm
from ftplug.demo.training import Recipe, make_trainer
from ftplug.quiet import quiet

TRAINED = ((0, "head and pooler", 0.25), (2, "top 2 of 6 layers", 0.70))


class Sweep:
    """One run for each rate and seed: their losses, and for how many examples the trunk ran."""

    seconds = 0.0  # of all sweeps

    def __init__(
        self, options: Any, *methods: Method, shared: bool = False, one_width: bool = False
    ) -> None:
        self.methods, self.shared, self.options = methods, shared, options
        self.one_width = one_width
        parts = data.split(data.read_sentences())
        self.parts = parts._replace(
            train=parts.train[: options.rows], validation=parts.validation[: options.rows * 2 // 5]
        )
        self.losses: dict[float, list[float]] = {}  # by learning rate
        self.ran: list[int] = []

    def __call__(self) -> None:
        """Run all of it."""
        self.losses = {rate: [] for rate in rates(self.methods[0])[: self.options.rates]}
        with tempfile.TemporaryDirectory() as folder:
            if self.shared:
                os.environ[SHARED_CACHE] = folder
            for rate, losses in self.losses.items():
                for seed in range(self.options.seeds):
                    losses += self._run(Recipe(self.options.epochs, seed, rate))
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
            if self.one_width:
                trainer.data_collator = DataCollatorWithPadding(
                    tokenizer, padding="max_length", max_length=recipe.max_length
                )
            start = time.process_time()
            trainer.train()
            Sweep.seconds += time.process_time() - start
        for entry in trainer.state.log_history:
            yield from (entry[name] for name in ("loss", "eval_loss") if name in entry)


def rates(method: Method) -> tuple[float, ...]:
    """Return a method's low, suggested and high learning rate."""
    known = method.suggested_learning_rate()
    if known is None:
        raise RuntimeError(f"{method.name} suggests no learning rate")
    return known.low, known.suggested, known.high


def gap(one: Sweep, other: Sweep, rate: float) -> float:
    """Return the largest difference of a logged loss at a learning rate."""
    both = zip(one.losses[rate], other.losses[rate], strict=True)
    return max(abs(a - b) for a, b in both)


def measure(found: Found, count: int, options: Any) -> None:
    """Compare sweeps of the head alone, and of the top layers."""
    torch.set_num_threads(1)
    cells = f"{options.rates} rates, {options.seeds} seeds, {options.epochs} epochs"
    for layers, what, goal in TRAINED:
        if layers not in options.layers:
            continue
        head = Freeze(layers=layers)
        plain, padded = Sweep(options, head), Sweep(options, head, one_width=True)
        sharing = Sweep(options, head, TrunkCache(), shared=True)
        compared = interleave(sharing, plain, count, warm_up=0, clock=lambda: Sweep.seconds)
        found.ratio(f"{what}, {cells}: `trunk-cache`, shared", "without a cache", compared, "s",
                    Goal("≤", goal))  # fmt: skip
        padded()
        for rate in plain.losses:
            at = f"{what}, learning rate {rate:g}: largest difference of a logged loss from"
            found.figure(f"{at} `trunk-cache`, shared", gap(plain, sharing, rate), "",
                         Goal("≤", 1e-5))  # fmt: skip
            found.figure(f"{at} padding to one width, no cache", gap(plain, padded, rate), "")
        examples = sum(map(len, plain.parts[:2]))
        found.figure(f"{what}: runs of the trunk for each of {examples:,} examples",
                     max(sharing.ran) / examples, "times", Goal("≤", 1))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    for name, default in (("rates", 3), ("seeds", 3), ("epochs", 5), ("rows", 1000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2])
    options, sys.argv[1:] = parser.parse_known_args()
    report.main(__doc__, functools.partial(measure, options=options), pairs=3)
