"""What ``freeze`` with ``cache=True`` saves: the demo's run with and without, in pairs.

MiniLM on the demo's sentences: training, evaluation and checkpoints of five epochs, in CPU seconds
of one thread, A B A B …; the frozen part has no dropout in either. Prints the ratio without / with,
how far the losses differ, and the first epoch's steps against a later one's. A few minutes a pair.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from ftplug_plugins.freeze import Freeze
from pairs import interleave, interval
from transformers import EarlyStoppingCallback, TrainerCallback, set_seed

from ftplug.demo import data, minilm
from ftplug.demo.training import Recipe, make_trainer
from ftplug.quiet import quiet


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
    """Runs of one method, with what each showed."""

    def __init__(self, method: Freeze, epochs: int) -> None:
        self.method, self.recipe = method, Recipe(epochs=epochs)
        self.parts = data.split(data.read_sentences())
        self.losses: list[float] = []
        self.epochs: list[list[float]] = []

    def __call__(self) -> None:
        """Train as the demo does, for all epochs."""
        set_seed(0)
        clock = Epochs()
        with tempfile.TemporaryDirectory() as folder, quiet():
            model, tokenizer = minilm.load_base()
            trainer = make_trainer(self.method, self.recipe, self.parts, model, tokenizer, folder)
            trainer.remove_callback(EarlyStoppingCallback)
            trainer.add_callback(clock)
            trainer.train()
        self.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        self.epochs.append(clock.seconds)


def main() -> None:
    """Print a line for each number of top layers that train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for layers in options.layers:
        without = Runs(Freeze(layers=layers, frozen_eval=True), options.epochs)
        caching = Runs(Freeze(layers=layers, cache=True), options.epochs)
        found = interleave(without, caching, options.pairs, warm_up=0, clock=time.process_time)
        gap = max(abs(a - b) for a, b in zip(without.losses, caching.losses, strict=True))
        later = [first / statistics.median(rest) for first, *rest in caching.epochs]
        ratio, low, high = interval(later)
        print(
            f"layers={layers}, {options.pairs} pairs of {options.epochs} epochs: "
            f"{found.median_a:.1f} s without, {found.median_b:.1f} s with: ratio {found}; "
            f"losses within {gap:.1g}; first epoch / later: {ratio:.1f} ({low:.1f} to {high:.1f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
