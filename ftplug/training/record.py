"""The facts of a run that manifest, card and report carry."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftplug.training import history
from ftplug.training.dataset import data_facts, majority_share


@dataclass
class Measurements:
    """What a run measured beside the Trainer's log.

    Seconds spent in ``train()``, summed over calls; the best checkpoint's step and the length of
    the log when it was restored; what was evaluated before the first step; the names of what
    methods logged.
    """

    seconds: float = 0.0
    started: float | None = None
    restored: tuple[int, int] | None = None
    untrained: dict[str, float] = field(default_factory=dict)
    scalars: set[str] = field(default_factory=set)

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


def training_facts(trainer: Any, measured: Measurements) -> dict[str, Any]:
    """Return a Trainer's data, hyperparameters, metrics, steps, time and memory as JSON values."""
    args, state = trainer.args, trainer.state
    metrics = history.metrics(state, measured.restored)
    facts: dict[str, Any] = {
        "data": data_facts(trainer.train_dataset, trainer.eval_dataset),
        "hyperparameters": _hyperparameters(trainer),
        "seed": args.seed,
        "steps": state.global_step,
        "epochs": state.epoch,
        "metrics": metrics,
        "baselines": _baselines(trainer, measured, metrics),
    }
    if measured.seconds:
        facts |= {
            "seconds": round(measured.seconds, 2),
            "hardware": hardware(),
            "peak_memory_bytes": peak_memory(),
        }
    if state.global_step:
        facts["history"] = history.curve(state.log_history, measured.scalars)
    return {name: value for name, value in facts.items() if value not in (None, {}, "")}


def _hyperparameters(trainer: Any) -> dict[str, Any]:
    args, state = trainer.args, trainer.state
    length = "max_steps" if args.max_steps > 0 else "num_train_epochs"
    hyperparameters: dict[str, Any] = {
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
    hyperparameters |= _optimizer(trainer)
    return {name: value for name, value in hyperparameters.items() if value is not None}


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
    trainer: Any, measured: Measurements, metrics: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return what the metrics compare with: the untrained model, and the commonest answer."""
    untrained = {name: measured.untrained[name] for name in metrics if name in measured.untrained}
    baselines = {"before training": untrained if trainer.state.global_step else {}}
    if "eval_accuracy" in metrics and (share := majority_share(trainer.eval_dataset)):
        baselines["majority class"] = {"eval_accuracy": share}
    return {name: values for name, values in baselines.items() if values}
