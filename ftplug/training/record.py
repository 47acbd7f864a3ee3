"""What a run knows about itself: the facts that manifest, card and report carry."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftplug.training import history
from ftplug.training.dataset import data_facts, majority_share


@dataclass
class Clock:
    """Seconds spent in ``train()``, summed over calls; when the best checkpoint was restored.

    ``untrained`` holds what was evaluated before the first step.
    """

    seconds: float = 0.0
    started: float | None = None
    restored: tuple[int, int] | None = None
    untrained: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Begin; safe to call again (``auto_find_batch_size`` restarts training)."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.restored = None
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Add the time since the last start."""
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None


def peak_memory() -> int:
    """Return peak bytes: allocated on the GPU where there is one, else resident in this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kilobytes if platform.system() == "Darwin" else kilobytes * 1024)


def hardware() -> str:
    """Return what the run ran on, e.g. ``1 x NVIDIA H100`` or ``x86_64 CPU, 2 cores``."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"


def training_facts(trainer: Any, clock: Clock) -> dict[str, Any]:
    """Return a Trainer's data, hyperparameters, metrics, steps, time and memory as JSON values."""
    args, state = trainer.args, trainer.state
    metrics = history.metrics(state, clock.restored)
    facts: dict[str, Any] = {
        "data": data_facts(trainer.train_dataset, trainer.eval_dataset),
        "hyperparameters": _hyperparameters(trainer),
        "seed": args.seed,
        "steps": state.global_step,
        "epochs": state.epoch,
        "metrics": metrics,
        "baselines": _baselines(trainer, clock, metrics),
    }
    if clock.seconds:
        facts |= {
            "seconds": round(clock.seconds, 2),
            "hardware": hardware(),
            "peak_memory_bytes": peak_memory(),
        }
    facts["history"] = history.curve(state.log_history) if state.global_step else None
    return {name: value for name, value in facts.items() if value not in (None, {}, "")}


def json_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as JSON values: numpy's and torch's scalars as numbers, NaN and inf left out."""
    cleaned = {str(name): _json_value(value) for name, value in facts.items()}
    return {name: value for name, value in cleaned.items() if value is not None}


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_values(value)
    if isinstance(value, list | tuple | set):
        return [item for item in map(_json_value, value) if item is not None]
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _hyperparameters(trainer: Any) -> dict[str, Any]:
    args, state = trainer.args, trainer.state
    length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    found: dict[str, Any] = {
        "learning_rate": _learning_rate(trainer),
        length: getattr(args, length),
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "processes": args.world_size,
        "total_train_batch_size": (state.train_batch_size or args.train_batch_size)
        * args.gradient_accumulation_steps
        * args.world_size,
        "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", "")),
        "warmup_steps": args.warmup_steps,
        "weight_decay": args.weight_decay,
        "max_grad_norm": args.max_grad_norm,
        "label_smoothing_factor": args.label_smoothing_factor or None,
        "mixed_precision": args.mixed_precision,
        "gradient_checkpointing": args.gradient_checkpointing or None,
    }
    found |= _optimizer(trainer)
    return {name: value for name, value in found.items() if value is not None}


def _optimizer(trainer: Any) -> dict[str, Any]:
    """Return the optimizer that trained, which need not be the one the arguments name."""
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate's wrapper
    if optimizer is None:
        return {"optimizer": str(getattr(trainer.args.optim, "value", trainer.args.optim))}
    defaults = getattr(optimizer, "defaults", {})
    known = {name: defaults.get(name) for name in ("betas", "eps", "momentum")}
    return {"optimizer": type(optimizer).__name__} | known


def _learning_rate(trainer: Any) -> float:
    """Return the rate that trained: the optimizer's own, before its schedule."""
    groups = getattr(trainer.optimizer, "param_groups", None) or [{}]
    rate = groups[0].get("initial_lr", groups[0].get("lr", trainer.args.learning_rate))
    return float(rate)


def _baselines(
    trainer: Any, clock: Clock, metrics: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return what the metrics compare with: the untrained model, and the commonest answer."""
    untrained = {name: clock.untrained[name] for name in metrics if name in clock.untrained}
    found = {"before training": untrained if trainer.state.global_step else {}}
    if "eval_accuracy" in metrics and (share := majority_share(trainer.eval_dataset)):
        found["majority class"] = {"eval_accuracy": share}
    return {name: values for name, values in found.items() if values}
