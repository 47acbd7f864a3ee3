"""Time training steps: ftplug beside peft, beside a hand-written model, and of full fine-tuning.

Each arm is a Trainer in its usual loop, held between its steps; two of them take steps in turn in
one process (A B B A …), in CPU seconds of one thread. The one that is built second is 4 % faster
throughout, whichever it is, by where its memory lies: every pair is measured in both orders, and
both are built anew every few pairs. ``forward`` is one Trainer alone, whose layers change their
class from step to step. Peak memory is that of a process of its own for each arm. ``full`` is the
plain Trainer with ``optim="adamw_torch"``, which other libraries are compared with, and with its
default here, fused AdamW.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

import pairs
import peft
import report
import torch
from ftplug_plugins.lora_parts.fused import FusedLinear
from ftplug_plugins.peft_bridge.files import tuner_layers
from peft.tuners.lora import Linear as LoraLinear
from report import Found, Goal, Unit
from steps import Arm, Held, held, in_both_orders, in_turn, model, trainer
from transformers import Trainer

import ftplug
from ftplug.quiet import quiet

PAIRS_PER_ROUND, MEMORY_STEPS, MEMORY_RUNS = 3, 4, 3
EVERYWHERE = ("query", "key", "value", "dense")  # every linear layer but the head
LORA: dict[str, Any] = {"r": 8, "lora_alpha": 16}
MS: Unit = "ms"


def ours(method: str, optim: str = "adamw_torch", **settings: Any) -> Arm:
    """Return an arm that trains with a method of ftplug."""

    def build(folder: str) -> Trainer:
        made = trainer(model(), folder, optim=optim)
        return ftplug.attach(made, method, **settings)

    return build


def theirs(config: type[Any], **settings: Any) -> Arm:
    """Return an arm that trains with peft alone."""
    return lambda folder: trainer(
        peft.get_peft_model(model(), config(task_type="SEQ_CLS", **settings)), folder
    )


def full(optim: str) -> Arm:
    """Return an arm that trains every parameter without ftplug."""
    return lambda folder: trainer(model(), folder, optim=optim)


ARMS = {
    "`lora` all-linear": ours("lora", target_modules=EVERYWHERE, **LORA),
    "`lora` query, value": ours("lora", target_modules=("query", "value"), **LORA),
    "`ia3`": ours("ia3"),
    "`vera`": ours("vera"),
    "`bottleneck` (Houlsby /16)": ours("bottleneck", reduction_factor=16),
    "peft LoRA all-linear": theirs(peft.LoraConfig, target_modules=list(EVERYWHERE), **LORA),
    "peft LoRA query, value": theirs(peft.LoraConfig, target_modules=["query", "value"], **LORA),
    "peft IA³": theirs(peft.IA3Config),
    "peft VeRA": theirs(peft.VeraConfig),
    "full": full("adamw_torch"),
    "`bottleneck`, fused AdamW": ours("bottleneck", "adamw_torch_fused", reduction_factor=16),
    "full, fused AdamW": full("adamw_torch_fused"),
}  # fmt: skip
COMPARED = (
    ("peft LoRA all-linear", "`lora` all-linear", Goal("≥", 1.12)),
    ("peft LoRA query, value", "`lora` query, value", Goal("≥", 1.02)),
    ("`ia3`", "peft IA³", Goal("includes", 1.0)),
    ("`vera`", "peft VeRA", Goal("includes", 1.0)),
    ("`bottleneck` (Houlsby /16)", "full", Goal("≤", 0.57)),
    ("`lora` query, value", "full", None),
    ("`bottleneck`, fused AdamW", "full, fused AdamW", None),
)
FUSED = ("`lora` all-linear", "`lora` query, value")


def compare(found: Found, a: str, b: str, goal: Goal | None, count: int) -> None:
    """Let two arms take steps in turn, built anew every few pairs, in either order."""
    taken: dict[str, list[float]] = {a: [], b: []}
    while len(taken[a]) < count:
        steps = min(PAIRS_PER_ROUND, count - len(taken[a]))
        for name, seconds in in_both_orders(partial(one_round, count=steps), (a, b)).items():
            taken[name] += seconds
    add(found, f"{a}: step", f"{b}: step", taken[a], taken[b], goal)


def one_round(names: Sequence[str], count: int) -> dict[str, list[float]]:
    """Build two arms in this order and return the seconds of steps that they take in turn."""
    with held([ARMS[name] for name in names]) as running:
        return in_turn(dict(zip(names, running, strict=True)), count)


def compare_forwards(found: Found, name: str, count: int) -> None:
    """Let one arm take steps by peft's forward and by the fused one in turn."""

    def step(adapted: Held, layers: list[Any], forward: type[Any]) -> None:
        for layer in layers:
            layer.__class__ = forward
        adapted()

    with tempfile.TemporaryDirectory() as folder:
        made = ARMS[name](folder)
        of: Any = made.model
        layers = [layer for _, layer in tuner_layers(of)]
        one = Held(made)
        kinds = {"peft's": LoraLinear, "fused": FusedLinear}
        arms = {kind: partial(step, one, layers, forward) for kind, forward in kinds.items()}
        in_turn(arms, 2)
        taken = in_turn(arms, count)
        one.stop()
    a, b = taken.values()
    add(found, f"{name} by peft's forward: step", "by the fused one: step", a, b, None)


def add(
    found: Found, a: str, b: str, first: list[float], second: list[float], goal: Goal | None
) -> None:
    """Add how the CPU seconds of two arms compare."""
    compared = pairs.compare([1000 * s for s in first], [1000 * s for s in second])
    found.ratio(a, b, compared, MS, goal)


def peak(name: str, answer: Any) -> None:
    """Send the peak memory in MiB of a process that trains one arm for a few steps."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        made = ARMS[name](folder)
        made.args.max_steps = MEMORY_STEPS
        made.train()
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare_memory(found: Found, a: str, b: str) -> None:
    """Compare the peak memory of two arms, each in a process of its own."""
    context = multiprocessing.get_context("fork")  # nothing is imported again
    answer = context.SimpleQueue()
    seen: dict[str, list[float]] = {a: [], b: []}
    for name in (a, b) * MEMORY_RUNS:
        process = context.Process(target=peak, args=(name, answer))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name}: the process that measures its memory failed")
        seen[name].append(answer.get())
    found.ratio(f"{a}: peak memory", b, pairs.compare(seen[a], seen[b]), "MiB", Goal("≤", 1.0))


def measure(found: Found, count: int) -> None:
    """Compare peak memory, then steps."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
    with quiet():
        compare_memory(found, "`lora` all-linear", "peft LoRA all-linear")
        compare_memory(found, "`lora` query, value", "peft LoRA query, value")
        for a, b, goal in COMPARED:
            compare(found, a, b, goal, count)
        for name in FUSED:
            compare_forwards(found, name, count)


if __name__ == "__main__":
    report.main(__doc__, measure, pairs=18)
