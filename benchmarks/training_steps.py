"""Time training steps of LoRA, fused and by peft's forward, and of other methods: A B A B … .

The model has MiniLM's shape (22.7 M parameters, random weights, dropout 0), a batch is 16 x 48
tokens, torch has one thread. Every arm is a Trainer in its usual loop, held between its steps.
Fused or not is one Trainer whose layers change their class from step to step; else two Trainers
take steps in turn in one process, anew in each round, for where memory happens to lie makes one of
them a few per cent faster throughout. Ratios are medians of pairs with bootstrap 95 % intervals, of
CPU seconds (other programs do not count) and of wall time. Peak memory is that of a process of its
own for each arm. ``full`` is the plain Trainer: with its default optimizer, fused AdamW, and with
``optim="adamw_torch"``, which papers and other libraries compare with.

    python benchmarks/fused_lora.py --rounds 4 --pairs 6
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import pairs
import peft
import torch
from ftplug_plugins.fused_lora import FusedLinear
from ftplug_plugins.peft_files import tuner_layers
from peft.tuners.lora import Linear as LoraLinear
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import ftplug

ROWS, TOKENS, MEMORY_STEPS = 16, 48, 4
EVERYWHERE = ("query", "key", "value", "dense")  # every linear layer but the head
Arm = Callable[[str], Trainer]


def model() -> BertForSequenceClassification:
    """Return MiniLM's shape with a classification head, always with the same values."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, intermediate_size=1536,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def trainer(of: Any, folder: str, **options: Any) -> Trainer:
    """Return a Trainer that neither logs nor saves."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(1000, 30000, (4 * ROWS, TOKENS), generator=draw)
    data: Any = [{"input_ids": row, "attention_mask": row > 0, "labels": i % 2}
                 for i, row in enumerate(ids)]  # fmt: skip
    args = TrainingArguments(
        folder, per_device_train_batch_size=ROWS, max_steps=10_000, save_strategy="no",
        logging_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
        label_names=["labels"], learning_rate=1e-3, **options,
    )  # fmt: skip
    made = Trainer(of, args, train_dataset=data)
    made.remove_callback(PrinterCallback)
    return made


def ours(method: str, **settings: Any) -> Arm:
    """Return an arm that trains with a method of ftplug."""

    def build(folder: str) -> Trainer:
        made = trainer(model(), folder)
        ftplug.attach(made, method, **settings)
        return made

    return build


def theirs(config: type[Any], **settings: Any) -> Arm:
    """Return an arm that trains with peft alone."""
    return lambda folder: trainer(
        peft.get_peft_model(model(), config(task_type="SEQ_CLS", **settings)), folder
    )


def full(optim: str) -> Arm:
    """Return an arm that trains every parameter without ftplug."""
    return lambda folder: trainer(model(), folder, optim=optim)


LORA = {"r": 8, "lora_alpha": 16}
ARMS = {
    "lora all-linear": ours("lora", target_modules=EVERYWHERE, **LORA),
    "lora query,value": ours("lora", target_modules=("query", "value"), **LORA),
    "ia3": ours("ia3"),
    "bottleneck /16": ours("bottleneck", reduction_factor=16),
    "peft lora all-linear": theirs(peft.LoraConfig, target_modules=list(EVERYWHERE), **LORA),
    "peft lora query,value": theirs(peft.LoraConfig, target_modules=["query", "value"], **LORA),
    "peft ia3": theirs(peft.IA3Config),
    "full, fused AdamW": full("adamw_torch_fused"),
    "full, AdamW": full("adamw_torch"),
}
FUSED = ("lora all-linear", "lora query,value")
COMPARED = (
    ("ia3", "peft ia3"),
    ("bottleneck /16", "full, AdamW"),
    ("lora query,value", "full, AdamW"),
    ("bottleneck /16", "full, fused AdamW"),
    ("lora query,value", "full, fused AdamW"),
)
MEASURED = ("lora all-linear", "peft lora all-linear", "lora query,value", "peft lora query,value")


class Held(TrainerCallback):
    """Runs a Trainer's loop in a thread that takes one step, the next batch included, per call."""

    def __init__(self, held: Trainer) -> None:
        self.go, self.done, self.over = threading.Semaphore(0), threading.Semaphore(0), False
        held.add_callback(self)
        self.thread = threading.Thread(target=held.train)
        self.thread.start()
        self.done.acquire()

    def __call__(self) -> None:
        """Take a step."""
        self.go.release()
        self.done.acquire()

    def stop(self) -> None:
        """End the loop."""
        self.over = True
        self.go.release()
        self.thread.join()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for the first call."""
        self.done.release()
        self.go.acquire()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the turn back and wait for the next."""
        self.done.release()
        self.go.acquire()
        control.should_training_stop = self.over


Taken = dict[str, list[float]]  # seconds by clock, step by step
CLOCKS = {"CPU": time.process_time, "wall": time.perf_counter}


def compare(a: str, b: str, rounds: int, count: int) -> None:
    """Let two arms take steps in turn and print how they compare."""
    taken: dict[str, Taken] = {name: {clock: [] for clock in CLOCKS} for name in (a, b)}
    for turn in range(rounds):
        take((a, b) if turn % 2 else (b, a), count, taken)
    report(f"{a} / {b}", taken[a], taken[b])


def compare_fused(name: str, count: int) -> None:
    """Let one arm take steps by peft's forward and by ours in turn and print how they compare."""
    taken: dict[str, Taken] = {kind: {clock: [] for clock in CLOCKS} for kind in ("peft", "ours")}
    with tempfile.TemporaryDirectory() as folder:
        made = ARMS[name](folder)
        adapted: Any = made.model
        layers = [layer for _, layer in tuner_layers(adapted)]
        held = Held(made)

        def step(forward: type[Any]) -> None:
            for layer in layers:
                layer.__class__ = forward
            held()

        arms = {"peft": partial(step, LoraLinear), "ours": partial(step, FusedLinear)}
        in_turn(arms, count, taken)
        held.stop()
    report(f"{name}: peft's forward / fused", taken["peft"], taken["ours"])


def report(title: str, a: Taken, b: Taken) -> None:
    """Print the paired ratio and the medians, by both clocks."""
    print(title)
    for clock in CLOCKS:
        found = pairs.compare(a[clock], b[clock])
        medians = f"{1000 * found.median_a:.0f} / {1000 * found.median_b:.0f} ms"
        print(f"    {clock:<4} {found}   {medians}", flush=True)


def take(names: tuple[str, str], count: int, taken: dict[str, Taken]) -> None:
    """Build two arms and add what their steps take."""
    with tempfile.TemporaryDirectory() as folder:
        arms = {name: Held(ARMS[name](folder)) for name in names}
        in_turn(arms, count, taken)
        for arm in arms.values():
            arm.stop()


def in_turn(arms: Mapping[str, Callable[[], None]], count: int, taken: dict[str, Taken]) -> None:
    """Let two arms warm up and add what their steps take: A B B A A B … ."""
    for arm in (*arms.values(), *arms.values()):
        arm()
    for pair in range(count):
        for name in list(arms)[:: 1 if pair % 2 else -1]:
            before = {clock: now() for clock, now in CLOCKS.items()}
            arms[name]()
            for clock, now in CLOCKS.items():
                taken[name][clock].append(now() - before[clock])


def peak(name: str, answer: Any) -> None:
    """Send the peak memory in MiB of a process that trains one arm for a few steps."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        made = ARMS[name](folder)
        made.args.max_steps = MEMORY_STEPS
        made.train()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.put((after / 1024, (after - before) / 1024))


def main() -> None:
    """Print the peak memory of LoRA's arms and all comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=6, help="in each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
    context = multiprocessing.get_context("fork")  # nothing is imported again
    for name in MEASURED:
        answer = context.SimpleQueue()
        process = context.Process(target=peak, args=(name, answer))
        process.start()
        total, added = answer.get()
        process.join()
        print(f"{name}: peak {total:.0f} MiB, {added:.0f} above an idle process", flush=True)
    for name in FUSED:
        compare_fused(name, options.rounds * options.pairs)
    for a, b in COMPARED:
        compare(a, b, options.rounds, options.pairs)


if __name__ == "__main__":
    main()
