"""What grows with the model and with the data, and what a checkpoint's weights file holds.

Weights files of checkpoints beside the bytes of what trains; then 2, 6, 12 and 24 layers of
MiniLM's width: attaching LoRA, a step and the file; then 100, 1,000 and 10,000 examples: an epoch
from a full trunk cache. In CPU seconds of one thread.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import pairs
import report
import torch
from ftplug_plugins.freeze import Freeze
from report import Found, Goal
from steps import arguments, data, model
from transformers import PrinterCallback, Trainer

import ftplug
from ftplug.attaching.attachment import require_attachment
from ftplug.quiet import quiet

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {}),
    ("freeze", {"layers": 2}),
    ("bitfit", {}),
)
LAYERS, EXAMPLES = (2, 6, 12, 24), (100, 1_000, 10_000)
STEPS = 20


def trainer(of: Any, folder: str, examples: int = 16, **options: Any) -> Trainer:
    """Return a Trainer on sentences of 16 tokens."""
    args = arguments(folder, **options)
    made = Trainer(of, args, train_dataset=data(examples, tokens=16))
    made.remove_callback(PrinterCallback)
    return made


def weights_file(bound: Trainer) -> tuple[int, int]:
    """Train a step; return the bytes of the checkpoint's weights, and of what may train."""
    bound.train()
    output = Path(str(bound.args.output_dir))
    [file] = output.glob("checkpoint-*/ftplug_state.safetensors")
    of: Any = bound.model
    return file.stat().st_size, 4 * require_attachment(of).plan.trained_count(of)


def files(found: Found) -> None:
    """Compare checkpoints' weights files with what trains."""
    for method, settings in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            bound = trainer(model(), folder, max_steps=1, save_strategy="steps", save_steps=1)
            size, trained = weights_file(ftplug.attach(bound, method, **settings))
        goal = Goal("≤", 1.02 * trained + 16 * 1024)
        what = f"`{method}`: weights file in a checkpoint, for {trained:,} bytes that train"
        found.figure(what, size, "bytes", goal)


def by_layers(found: Found) -> None:
    """Measure how attaching LoRA, a step and the file grow with the number of layers."""
    rows = []
    for layers in LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            bound = trainer(model(layers), folder, max_steps=1, save_strategy="steps", save_steps=1)
            attach = pairs.timed(partial(ftplug.attach, bound, "lora"), time.process_time)
            size, _ = weights_file(bound)
            bound.args.max_steps, bound.args.save_strategy = STEPS, "no"
            step = pairs.timed(bound.train, time.process_time) / STEPS
        rows.append((layers, 1000 * attach, 1000 * step, size))
    found.grows(("layers", "attach `lora`, ms", "step, ms", "weights file, bytes"), rows)


def by_examples(found: Found) -> None:
    """Measure how an epoch of known examples grows with their number."""
    rows = []
    for examples in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            bound = trainer(model(), folder, examples, num_train_epochs=1)
            ftplug.attach(bound, Freeze(layers=0), "trunk-cache")
            bound.train()
            again = pairs.timed(bound.train, time.process_time)
        rows.append((examples, again, 1000 * again / examples))
    found.grows(("examples", "epoch from the cache, s", "an example, ms"), rows)


def measure(found: Found, count: int) -> None:
    """Measure all of it, once: nothing is compared in pairs."""
    torch.set_num_threads(1)
    with quiet():
        files(found)
        by_layers(found)
        by_examples(found)


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=2)
