"""Runs that were pinned as data in ``tests/compatibility``: what was asked, on which base.

The base is not stored: its weights are small multiples of 1/256 from a generator of integers, the
same on every processor and with every version of torch. AdamW's epsilon is large for the same
reason: a gradient that is nothing but rounding would else move its weight by a whole step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

import ftplug

SAVED, STEPS = 3, 6  # in the middle of the second of three epochs, and the last
INVOCATION = 5  # the token that switches aLoRA on, in every row that a decoder reads
_SMALL = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2,
          "max_position_embeddings": 16}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """The arguments that a user gives to :func:`ftplug.attach`."""

    methods: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


def ask(*methods: str, **settings: Any) -> Asked:
    return Asked(methods, settings)


_LORA = {"r": 2, "target_modules": ("value",)}
_TOP = {"layers_to_transform": (1,), **_LORA}
_BESIDE = {f"lora.{name}": value for name, value in _LORA.items()}

CASES: Mapping[str, Asked] = {
    "full": ask("full"),
    "freeze": ask("freeze", layers=1),
    "lora": ask("lora", **_LORA),
    "prefix-tuning": ask("prefix-tuning", num_virtual_tokens=2),
    "prompt-tuning": ask("prompt-tuning", num_virtual_tokens=2),
    "bottleneck": ask("bottleneck", reduction_factor=4, layers=1),
    "bitfit": ask("bitfit"),
    "ia3": ask("ia3"),
    "adalora": ask("adalora", init_r=3, target_r=1, tinit=1, tfinal=1, lora_alpha=512,
                   orth_reg_weight=0.01, target_modules=("value",)),
    "reft": ask("reft", low_rank_dimension=2),
    "lora+bitfit": ask("lora", "bitfit", **_BESIDE),
    "lora+l2-sp": ask("lora", "l2-sp", **_BESIDE, **{"l2-sp.alpha": 0.1, "l2-sp.beta": 0.2}),
    # What follows has settings that were moved after commit f0380a4.
    "pissa": ask("lora", init_lora_weights="pissa", **_LORA),
    "pissa-niter": ask("lora", init_lora_weights="pissa_niter_4", **_LORA),
    "olora": ask("lora", init_lora_weights="olora", **_LORA),
    "alora": ask("lora", r=2, alora_invocation_tokens=(INVOCATION,)),
    "freeze-cache": ask("freeze", layers=0, cache=True),
    "lora-cache": ask("lora", cache=True, **_TOP),
    "bottleneck-cache": ask("bottleneck", reduction_factor=4, layers=1, cache=True,
                            cache_dtype="float32", cache_bytes=10_000, cache_on_disk=True),
    "pissa-cache": ask("lora", init_lora_weights="pissa", cache=True, **_TOP),
    "reft+lora-cache": ask("reft", "lora", **{"reft.layers": (1,), "lora.cache": True},
                           **{f"lora.{name}": value for name, value in _TOP.items()}),
}  # fmt: skip
_ONE_LAYER = ("full", "bitfit", "lora+bitfit")  # they train much: their data would be large


def base(case: str) -> Any:
    """Return the base model of a case."""
    make = tiny.llama if case == "alora" else tiny.bert
    model = make(**_SMALL, num_hidden_layers=1 if case in _ONE_LAYER else 2)
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randint(-64, 65, parameter.shape, generator=draw) / 256)
    return model


def batch(model: Any, rows: int = 3) -> dict[str, torch.Tensor]:
    """Return inputs with labels."""
    found: dict[str, torch.Tensor] = tiny.inputs(model, rows=rows)
    if type(model).__name__.endswith("CausalLM"):
        found["input_ids"][:, 2] = INVOCATION
    return found


def trainer(model: Any, out: Path, asked: Asked) -> Trainer:
    """Return a Trainer, bound to what was asked, that saves a checkpoint half way."""
    together = batch(model, 32)
    data = [{name: value[i] for name, value in together.items()} for i in range(32)]
    args = TrainingArguments(
        str(out),
        per_device_train_batch_size=16,
        max_steps=STEPS,
        save_steps=SAVED,
        logging_steps=1,
        learning_rate=2e-2,
        adam_epsilon=1e-5,
        seed=42,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )
    bound = Trainer(model, args, train_dataset=data)
    return ftplug.attach(bound, *asked.methods, **asked.settings)


def logits(model: Any) -> torch.Tensor:
    """Return the answers to the fixed inputs."""
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**batch(model)).logits
    return found


def outcome(trained: Trainer) -> dict[str, torch.Tensor]:
    """Return the losses after the checkpoint, the final weights and the answers."""
    history = trained.state.log_history
    losses = [log["loss"] for log in history if "loss" in log and log["step"] > SAVED]
    live = trained.model.named_parameters()  # type: ignore[union-attr]
    found = {f"weights/{name}": p.detach().clone() for name, p in live if p.requires_grad}
    return found | {"losses": torch.tensor(losses), "logits": logits(trained.model)}


def expected(folder: Path) -> dict[str, torch.Tensor]:
    """Return the outcome that was written beside an artifact and a checkpoint."""
    return load_file(folder / "expected.safetensors")
