"""What ``trunk-cache`` saves beside ``freeze``: the demo's run with and without, in pairs.

MiniLM on the demo's sentences: training, evaluation and checkpoints of five epochs, in CPU seconds
of one thread, A B A B …; the frozen part has no dropout in either. A few minutes a pair.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import report
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.trunk_cache.method import TrunkCache
from pairs import compare, interleave
from report import Found, Goal
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from ftplug import Method
from ftplug.demo import data, minilm
from ftplug.demo.training import Recipe, make_trainer
from ftplug.quiet import quiet

EPOCHS = 5
TRAINED = ((0, "head and pooler", 3.0), (2, "top 2 of 6 layers", 1.35))


class Epochs(TrainerCallback):
    """CPU seconds of the steps of each epoch, without evaluation and checkpoint."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.start = time.process_time()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(time.process_time() - self.start)


class Runs:
    """Runs of the same methods, with what each showed."""

    def __init__(self, *methods: Method) -> None:
        self.methods, self.recipe = methods, Recipe(epochs=EPOCHS)
        self.parts = data.split(data.read_sentences())
        self.losses: list[float] = []
        self.epochs: list[list[float]] = []

    def __call__(self) -> None:
        """Train as the demo does, for all epochs."""
        set_seed(0)
        clock = Epochs()
        with tempfile.TemporaryDirectory() as folder, quiet():
            model, tokenizer = minilm.load_base()
            trainer = make_trainer(self.methods, self.recipe, self.parts, model, tokenizer, folder)
            trainer.remove_callback(EarlyStoppingCallback)
            trainer.add_callback(clock)
            trainer.train()
        self.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        self.epochs.append(clock.seconds)


def measure(found: Found, count: int) -> None:
    """Compare runs of the head alone, and of the top layers."""
    torch.set_num_threads(1)
    for layers, what, goal in TRAINED:
        without = Runs(Freeze(layers=layers, frozen_eval=True))
        caching = Runs(Freeze(layers=layers), TrunkCache())
        compared = interleave(without, caching, count, warm_up=0, clock=time.process_time)
        found.ratio(f"{what}, {EPOCHS} epochs", "the same with `trunk-cache`", compared, "s",
                    Goal("≥", goal))  # fmt: skip
        first = [first for first, *_ in caching.epochs]
        later = [statistics.median(rest) for _, *rest in caching.epochs]
        found.ratio(f"{what} with `trunk-cache`: steps of epoch 1", "of a later epoch",
                    compare(first, later), "s", Goal("≥", 8) if layers == 0 else None)  # fmt: skip
        gap = max(abs(a - b) for a, b in zip(without.losses, caching.losses, strict=True))
        found.figure(f"{what}: largest difference of a logged loss with `trunk-cache`", gap, "",
                     Goal("≤", 1e-5))  # fmt: skip


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=5)
