"""What grows with the model and with the data, and what a checkpoint's weights file holds.

Weights files of checkpoints beside the bytes of what trains; then 2, 6, 12 and 24 layers of
MiniLM's width: attaching, what the binding adds to nothing but itself a step, and the file; then
100, 1,000 and 10,000 examples: an epoch from a full trunk cache, and the bytes that it keeps.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pairs
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

import ftplug
from ftplug.attachment import require_attachment
from ftplug.quiet import quiet

METHODS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lora", {}),
    ("freeze", {"layers": 2}),
    ("bitfit", {}),
)
LAYERS, EXAMPLES = (2, 6, 12, 24), (100, 1_000, 10_000)


def model(layers: int = 6) -> BertForSequenceClassification:
    """Return an encoder of MiniLM's width with a classification head."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=layers, intermediate_size=1536,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def trainer(of: Any, folder: str, rows: int = 16, **options: Any) -> Trainer:
    """Return a Trainer on sentences of 16 tokens, all different."""
    ids = torch.randint(1000, 30000, (rows, 16), generator=torch.Generator().manual_seed(1))
    data: Any = [{"input_ids": row, "attention_mask": row > 0, "labels": i % 2}
                 for i, row in enumerate(ids)]  # fmt: skip
    args = TrainingArguments(
        folder, per_device_train_batch_size=16, report_to=[], disable_tqdm=True, use_cpu=True,
        logging_strategy="no", learning_rate=1e-3, **options,
    )  # fmt: skip
    made = Trainer(of, args, train_dataset=data)
    made.remove_callback(PrinterCallback)
    return made


def weights_file(bound: Trainer) -> tuple[int, int]:
    """Train a step; return the bytes of the checkpoint's weights, and of what may train."""
    bound.train()
    output = Path(str(bound.args.output_dir))
    [file] = output.glob("checkpoint-*/ftplug_state.safetensors")
    of: Any = bound.model
    return file.stat().st_size, 4 * require_attachment(of).plan.trained_count(of)


def files() -> None:
    """Print how much larger than what trains a checkpoint's weights file is."""
    for method, settings in METHODS:
        with tempfile.TemporaryDirectory() as folder:
            bound = trainer(model(), folder, max_steps=1, save_steps=1)
            size, trained = weights_file(ftplug.attach(bound, method, **settings))
            print(f"{method}: {size:,} bytes for {trained:,} of what trains, + {size - trained:,}")


def by_layers() -> None:
    """Print how attaching LoRA, a step and the file grow with the number of layers."""
    print("layers | attach ms | step ms | weights bytes")
    for layers in LAYERS:
        with tempfile.TemporaryDirectory() as folder:
            bound = trainer(model(layers), folder, max_steps=1, save_steps=1)
            attach = pairs.timed(partial(ftplug.attach, bound, "lora"))
            size, _ = weights_file(bound)
            bound.args.max_steps, bound.args.save_strategy = 20, "no"
            step = pairs.timed(bound.train, time.process_time) / 20
            print(f"{layers} | {1000 * attach:.0f} | {1000 * step:.1f} | {size:,}", flush=True)


def by_examples() -> None:
    """Print how an epoch of known examples, and what is kept of them, grow with their number."""
    print("examples | epoch from the cache s | ms an example")
    for rows in EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            bound = trainer(model(), folder, rows, num_train_epochs=1, save_strategy="no")
            ftplug.attach(bound, "freeze", layers=0, cache=True)
            bound.train()
            again = pairs.timed(bound.train, time.process_time)
            print(f"{rows} | {again:.2f} | {1000 * again / rows:.2f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with quiet():
        files()
        by_layers()
        by_examples()
