"""Tiny Trainer runs: data for a model, a Trainer, and what to compare afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tiny
import torch
from torch.utils.data import DataLoader
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    get_linear_schedule_with_warmup,
)

from ftplug.testing.compare import shake  # noqa: F401 - tests take it from here

# The six methods of the foundation, with settings that fit a model of two layers.
METHODS: Mapping[str, dict[str, Any]] = {
    "full": {},
    "freeze": {"layers": 1},
    "lora": {"r": 4},
    "prefix-tuning": {"num_virtual_tokens": 4},
    "prompt-tuning": {"num_virtual_tokens": 4},
    "bottleneck": {"reduction_factor": 4},
}

# Before 5.23 it was called gradient checkpointing.
_NAME = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
CHECKPOINTING = f"{_NAME}_checkpointing"
"""The argument of a Trainer that switches activation checkpointing on."""


def rows(model: Any, count: int = 32) -> list[dict[str, Any]]:
    """Return single examples for the model's head."""
    batch = tiny.inputs(model, rows=count)
    return [{name: value[i] for name, value in batch.items()} for i in range(count)]


def trainer(
    model: Any, out: Path, *, callbacks: Any = None, cls: type[Trainer] = Trainer, **options: Any
) -> Trainer:
    """Return a Trainer on 32 rows: 20 steps of 4, a checkpoint every 10, logging each step."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "save_steps": 10,
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
    }
    if "activation_checkpointing" not in {f.name for f in fields(TrainingArguments)}:  # before 5.23
        defaults |= {n.replace("activation_", "gradient_"): v for n, v in options.items()}
        options = {}
    data = rows(model)
    args = TrainingArguments(str(out), **(defaults | options))
    return cls(model, args, train_dataset=data, eval_dataset=data[:8], callbacks=callbacks)


def by_hand(
    model: Any,
    optimizer: torch.optim.Optimizer,
    *,
    penalty: Callable[[], torch.Tensor | float] = lambda: 0.0,
    clip: float | None = 1.0,
    steps: int = 20,
) -> list[float]:
    """Return the losses of the steps that :func:`trainer` takes, in plain PyTorch.

    ``penalty`` is added to each loss before its gradient is taken, and is not returned.
    """
    model.train()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    data = DataLoader(rows(model), 4, collate_fn=default_data_collator)
    found: list[float] = []
    for batch in islice(cycle(data), steps):
        loss = model(**batch).loss
        (loss + penalty()).backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return found


class StopAt(TrainerCallback):
    """Saves a checkpoint and ends training at a step, as an interrupted run does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def losses(trained: Trainer) -> list[float]:
    return [log["loss"] for log in trained.state.log_history if "loss" in log]


def logits(model: Any, batch: Any = None) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        found: torch.Tensor = model(**(batch or tiny.inputs(model))).logits
    return found


def weights(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of all parameters and buffers."""
    return copy.deepcopy({k: v.detach() for k, v in model.state_dict().items()})


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of tensors are equal to the last bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def checkpoint(model: Any, **kwargs: Any) -> Any:
    """Switch activation checkpointing on for a model."""
    getattr(model, f"{CHECKPOINTING}_enable")(kwargs or None)
    return model
