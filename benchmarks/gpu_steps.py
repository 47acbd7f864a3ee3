"""Compare training steps on a GPU: each comparison is a process of its own, which gpu.py starts.

A Llama with random values in bf16, sequences of 2,048 tokens. Two Trainers take steps in turn,
timed by the device's events; peak memory is of one Trainer alone. ``--rehearse`` runs the same
lines with a model of a few thousand parameters, on a CPU where there is no GPU.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pairs
import peft
import torch
from devices import CUDA, DEVICE, allocated, peak_of, seconds
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.trunk_cache.method import TrunkCache
from report import Found, Goal
from steps import Held
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

import ftplug
from ftplug.quiet import quiet

BATCHES = 4  # of the training set: an epoch
WARM_UP = BATCHES + 1  # steps: whatever is kept of the first epoch is there
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32}
ATTENTION = ("q_proj", "v_proj")
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Size:
    """A Llama and what it is trained on."""

    name: str
    config: dict[str, Any]
    tokens: int  # of a sequence
    batch: int  # sequences
    count: int  # pairs of steps


def _config(
    hidden: int, inner: int, layers: int, heads: int, groups: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocabulary,
    }  # fmt: skip


BILLION = Size("1.2B", _config(2048, 8192, 16, 32, 8, 128_256), tokens=2048, batch=4, count=10)
EIGHT_BILLION = Size("8B", _config(4096, 14_336, 32, 32, 8, 128_256), tokens=2048, batch=1, count=4)
TINY = Size("tiny", _config(160, 256, 3, 4, 2, 256), tokens=16, batch=2, count=2)
Arm = Callable[..., Trainer]  # (folder, size, **options of the Trainer)


def model(size: Size) -> LlamaForCausalLM:
    """Return a Llama in bf16 on the device, always with the same values."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(DEVICE):
            return LlamaForCausalLM(LlamaConfig(**size.config, tie_word_embeddings=True))
    finally:
        torch.set_default_dtype(before)


def trainer(of: Any, folder: str, size: Size, **options: Any) -> Trainer:
    """Return a Trainer that takes steps without end."""
    chosen: dict[str, Any] = {
        "max_steps": 100_000, "per_device_train_batch_size": size.batch, "bf16": True,
        "use_cpu": not CUDA, "save_strategy": "no", "logging_strategy": "no", "report_to": [],
        "disable_tqdm": True, "label_names": ["labels"], "learning_rate": 1e-4,
    }  # fmt: skip
    draw = torch.Generator().manual_seed(1)
    rows = torch.randint(
        3, size.config["vocab_size"], (BATCHES * size.batch, size.tokens), generator=draw
    )
    data: Any = [{"input_ids": row, "labels": row} for row in rows]
    made = Trainer(of, TrainingArguments(folder, **chosen | options), train_dataset=data)
    made.remove_callback(PrinterCallback)
    return made


def ours(*methods: Any, **settings: Any) -> Arm:
    """Return an arm that trains with methods of ftplug."""

    def build(folder: str, size: Size, **options: Any) -> Trainer:
        return ftplug.attach(trainer(model(size), folder, size, **options), *methods, **settings)

    return build


def theirs(*targets: str) -> Arm:
    """Return an arm that trains with peft alone."""

    def build(folder: str, size: Size, **options: Any) -> Trainer:
        config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=list(targets), **LORA)
        return trainer(peft.get_peft_model(model(size), config), folder, size, **options)

    return build


def floor(folder: str, size: Size, **options: Any) -> Trainer:
    """Return a Trainer of the frozen base: forward and backward through all layers, no adapter."""
    base: Any = model(size).requires_grad_(False)
    base.enable_input_require_grads()
    base.model.norm.weight.requires_grad_(True)
    return trainer(base, folder, size, **options)


def plain(folder: str, size: Size, **options: Any) -> Trainer:
    """Return a Trainer without ftplug."""
    return trainer(model(size), folder, size, **options)


ARMS: dict[str, Arm] = {
    "`lora` all-linear": ours("lora", target_modules=LINEAR, **LORA),
    "`lora` q, v": ours("lora", target_modules=ATTENTION, **LORA),
    "peft LoRA all-linear": theirs(*LINEAR),
    "peft LoRA q, v": theirs(*ATTENTION),
    "frozen base": floor,
    "plain Trainer": plain,
    "`bottleneck`": ours("bottleneck", reduction_factor=16),
    "`prefix-tuning`": ours("prefix-tuning", num_virtual_tokens=16),
    "`full`": ours("full"),
    "`galore`": ours("galore"),
    "`lisa`": ours("lisa", layers=2),
    "`qlora`": ours("qlora", **LORA),
    "`freeze`, top 2 layers": ours(Freeze(layers=2)),
    "`freeze` with `trunk-cache`": ours(Freeze(layers=2), TrunkCache()),
}


@dataclass(frozen=True)
class Comparison:
    """Two arms, the second with options of its own; goals of step time and peak memory."""

    a: str
    b: str
    size: Size = BILLION
    options: dict[str, Any] = field(default_factory=dict)  # of both Trainers
    options_b: dict[str, Any] = field(default_factory=dict)
    faster: Goal | None = None
    smaller: Goal | None = None


CHECKPOINTING = {"gradient_checkpointing": True}
ALL, QV, BASE = "`lora` all-linear", "`lora` q, v", "frozen base"
COMPARISONS: dict[str, list[Comparison]] = {
    "lora-all": [
        Comparison("peft LoRA all-linear", ALL, faster=Goal("≥", 1.25), smaller=Goal("≥", 1 / 0.9)),
        Comparison(ALL, BASE),
    ],
    "lora-qv": [Comparison("peft LoRA q, v", QV), Comparison(QV, BASE)],
    "checkpointing": [
        Comparison("peft LoRA all-linear", ALL, options=CHECKPOINTING),
        Comparison(ALL, BASE, options=CHECKPOINTING),
    ],
    "adapters": [Comparison(f"`{name}`", BASE) for name in ("bottleneck", "prefix-tuning")],
    "full": [Comparison(f"`{name}`", "`full`") for name in ("lisa", "galore")],
    "qlora": [Comparison("`qlora`", ALL)],
    "attach": [Comparison("`full`", "plain Trainer")],
    "trunk-cache": [Comparison("`freeze`, top 2 layers", "`freeze` with `trunk-cache`")],
    "compile": [Comparison(ALL, ALL, options_b={"torch_compile": True})],
    "8b": [Comparison("peft LoRA all-linear", ALL, size=EIGHT_BILLION, options=CHECKPOINTING)],
}


def run(found: Found, comparison: Comparison, size: Size) -> None:
    """Let the two arms take steps in turn; add their ratio, speeds and peaks."""
    (a, b), peaks = _names(comparison, size), list[int]()
    with ExitStack() as stack, quiet():
        running = []
        for arm, more in ((comparison.a, {}), (comparison.b, comparison.options_b)):
            before = allocated()
            folder = stack.enter_context(TemporaryDirectory())
            if size is TINY and "torch_compile" in more:  # as far as tracing: no code for a CPU
                more = more | {"torch_compile_backend": "eager"}
            held = Held(ARMS[arm](folder, size, **comparison.options | more))
            stack.callback(held.stop)
            for _ in range(WARM_UP):
                held()
            peaks.append(peak_of(held) - before)
            running.append(held)
        taken: tuple[list[float], list[float]] = ([], [])
        for pair in range(size.count):
            for which in (0, 1) if pair % 2 else (1, 0):
                taken[which].append(seconds(running[which]))
    first, second = ([1000 * value for value in values] for values in taken)
    compared = pairs.compare(first, second)
    real = size is not TINY  # for which the goals are
    faster, smaller = (comparison.faster, comparison.smaller) if real else (None, None)
    found.ratio(f"{a}: step", f"{b}: step", compared, "ms", faster)
    for name, milliseconds in ((a, compared.median_a), (b, compared.median_b)):
        speed = 1000 * size.batch * size.tokens / milliseconds
        found.figure(f"{name}: tokens a second", speed, "")
    if CUDA:
        peak_a, peak_b = ([peak / 2**20] for peak in peaks)
        memory = pairs.compare(peak_a, peak_b)
        found.ratio(f"{a}: peak memory", f"{b}: peak memory", memory, "MiB", smaller)


def _names(comparison: Comparison, size: Size) -> tuple[str, str]:
    shared = [size.name, *(name.replace("_", " ") for name in comparison.options)]
    own = [*shared, *(name.replace("_", " ") for name in comparison.options_b)]
    return f"{comparison.a} ({', '.join(shared)})", f"{comparison.b} ({', '.join(own)})"


def main() -> None:
    """Run the comparisons of these names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=COMPARISONS, metavar="NAME",
                        help=", ".join(COMPARISONS))  # fmt: skip
    parser.add_argument("--rehearse", action="store_true", help="a tiny model, two pairs of steps")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what is found here")
    options = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
    logging.getLogger("ftplug").setLevel(logging.ERROR)  # what it says of the learning rate
    found = Found()
    for name in options.names:
        for comparison in COMPARISONS[name]:
            run(found, comparison, TINY if options.rehearse else comparison.size)
            found.keep(options.json)  # whatever comes next may be cut off


if __name__ == "__main__":
    main()
