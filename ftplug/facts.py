"""What a run knows about itself: the facts that manifest, card and report carry."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from typing import Any


@dataclass
class Clock:
    """Seconds spent in ``train()``, summed over calls; when the best checkpoint was restored."""

    seconds: float = 0.0
    started: float | None = None
    restored: tuple[int, int] | None = None

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
    facts: dict[str, Any] = {
        "data": _data(trainer),
        "hyperparameters": {
            "learning_rate": _learning_rate(trainer),
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "processes": args.world_size,
            "lr_scheduler_type": str(getattr(args.lr_scheduler_type, "value", "")),
            "weight_decay": args.weight_decay,
            "optimizer": str(getattr(args.optim, "value", args.optim)),
            "mixed_precision": args.mixed_precision,
        },
        "seed": args.seed,
        "steps": state.global_step,
        "epochs": state.epoch,
        "metrics": _metrics(state, clock.restored),
    }
    if clock.seconds:
        facts |= {
            "seconds": round(clock.seconds, 2),
            "hardware": hardware(),
            "peak_memory_bytes": peak_memory(),
        }
    return {name: value for name, value in facts.items() if value not in (None, {}, "")}


def _data(trainer: Any) -> dict[str, Any]:
    """Return rows, and name and revision where ``datasets`` knows them."""
    found: dict[str, Any] = {}
    for split in ("train", "eval"):
        dataset: Any = getattr(trainer, f"{split}_dataset", None)
        if hasattr(dataset, "__len__") and not isinstance(dataset, dict):
            found[f"{split}_rows"] = len(dataset)
        info: Any = getattr(dataset, "info", None)
        if split == "train" and getattr(info, "dataset_name", None):
            found["dataset"] = info.dataset_name
            found["version"] = str(info.version) if info.version else None
    return {name: value for name, value in found.items() if value is not None}


def _learning_rate(trainer: Any) -> float:
    """Return the rate that trained: the optimizer's own, before its schedule."""
    groups = getattr(trainer.optimizer, "param_groups", None) or [{}]
    rate = groups[0].get("initial_lr", groups[0].get("lr", trainer.args.learning_rate))
    return float(rate)


def _metrics(state: Any, restored: tuple[int, int] | None) -> dict[str, float]:
    """Return the evaluation of the weights as they are: of this step, or of the restored best one.

    ``restored`` is the best checkpoint's step and the length of the log when it was loaded.
    """
    step, start = restored or (state.global_step, len(state.log_history))
    logs = [log for log in state.log_history if log.get("step") == step]
    logs += state.log_history[start:]
    timing = ("_runtime", "_per_second", "_model_preparation_time")
    merged = {key: value for log in logs for key, value in log.items()}
    return {k: v for k, v in merged.items() if k.startswith("eval_") and not k.endswith(timing)}
