"""The facts of a run that manifest, card and report carry."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ftplug.errors import MethodError
from ftplug.training import history
from ftplug.training.dataset import data_facts, majority_share, other_data_facts
from ftplug.training.facts.evaluation import evaluation_facts

OTHER = "metrics_on_other_data"  # the name of that fact
_LOGGED_BY_THE_TRAINER = {"loss", "grad_norm", "learning_rate", "epoch", "step"}


@dataclass(frozen=True)
class Elsewhere:
    """An evaluation on other data than the Trainer's own; ``place`` is where the log has it."""

    place: int
    step: int
    data: dict[str, Any]
    metrics: dict[str, float]


@dataclass
class Measurements:
    """What a run measured beside the Trainer's log.

    Seconds spent in ``train()``, summed over calls; the best checkpoint's step and the length of
    the log when it was restored; what was evaluated before the first step; the names of what
    methods logged. ``earlier`` is what earlier calls of ``train()`` took of the same model, and
    ``last`` what the one that ended last did. ``script``: of ``ftplug run``.
    """

    seconds: float = 0.0
    started: float | None = None
    restored: tuple[int, int] | None = None
    untrained: dict[str, float] = field(default_factory=dict)
    scalars: set[str] = field(default_factory=set)
    elsewhere: list[Elsewhere] = field(default_factory=list)
    is_elsewhere: bool = False  # while other data are evaluated on
    is_on_training_data: bool = False  # while these are the training set itself
    earlier: history.Taken = field(default_factory=history.Taken)
    last: history.Taken | None = None
    script: dict[str, Any] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)  # logged by methods since the last log

    def log(self, scalars: Mapping[str, float]) -> None:
        """Keep numbers of methods for the next log entry."""
        for name in scalars:
            if name in _LOGGED_BY_THE_TRAINER or name.startswith("eval_"):
                raise MethodError(f"run.log: {name!r} is the Trainer's own: choose another name")
        self.waiting |= scalars
        self.scalars |= set(scalars)

    def with_scalars(self, logs: dict[str, float]) -> dict[str, float]:
        """Return a log entry with what methods logged since the last one; forget that."""
        if "loss" not in logs or not self.waiting:
            return logs
        scalars, self.waiting = self.waiting, {}
        return {**logs, **scalars}

    def start(self, step: int) -> None:
        """Begin at a step; safe to call again (``auto_find_batch_size`` restarts training).

        A call that begins at step 0 goes on from what the last one left; any other resumes.
        """
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if self.last and step == 0:
            self.earlier = self.earlier.followed_by(self.last)
        self.last = None
        self.restored = None
        self.elsewhere = []
        self.started = time.perf_counter()

    def stop(self, state: Any) -> None:
        """Add the time since the last start."""
        if self.started is not None:
            self.seconds += time.perf_counter() - self.started
            self.started = None
        own = [log for at, log in enumerate(state.log_history) if at not in self.places]
        self.last = history.Taken(state.global_step, float(state.epoch or 0), own)

    def anew(self) -> None:
        """Forget what earlier calls took: ``model_init`` gave another model."""
        self.earlier, self.last, self.seconds = history.Taken(), None, 0.0

    @property
    def places(self) -> set[int]:
        """The places in the log of evaluations on other data."""
        return {one.place for one in self.elsewhere}


@contextmanager
def evaluating(trainer: Any, measured: Measurements, dataset: Any, prefix: str) -> Iterator[None]:
    """Tell what is evaluated on other data than the Trainer's own from what is not."""
    own = trainer.eval_dataset
    sets = own.values() if isinstance(own, dict) else [own]
    if dataset is None or isinstance(dataset, str | dict) or any(dataset is one for one in sets):
        yield
        return
    state, place = trainer.state, len(trainer.state.log_history)
    measured.is_elsewhere = True
    measured.is_on_training_data = dataset is trainer.train_dataset
    try:
        yield
    finally:
        measured.is_elsewhere = measured.is_on_training_data = False
    data = other_data_facts(dataset)
    for at, log in enumerate(state.log_history[place:], start=place):
        found = history.evaluation(log, f"{prefix}_")
        metrics = {name.removeprefix(f"{prefix}_"): value for name, value in found.items()}
        measured.elsewhere.append(Elsewhere(at, state.global_step, data, metrics))


def peak_memory() -> int:
    """Return peak bytes: allocated on the GPU where there is one, else resident in this process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return peak_resident()


def peak_resident() -> int:
    """Return the peak bytes resident in this process; in a fork, since it was forked."""
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


def in_short(trainer: Any) -> str:
    """Return what trains, of how much and at which rate: ``lora: 74,498 of 22.7 M …, lr 1e-3``."""
    attached, model = trainer.ftplug.attached, trainer.ftplug.model
    trained, total = attached.plan.trained_count(model), _rounded(attached.base.total)
    rate = f"{_learning_rate(trainer):.3g}"
    if "e" not in rate and float(rate) < 0.01:
        digits, _, power = f"{float(rate):.2e}".partition("e")
        rate = f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    rate = rate.replace("e-0", "e-")
    return f"{attached.host.names}: {trained:,} of {total} parameters, lr {rate}"


def _rounded(count: int) -> str:
    """Return a count as people say it: 22.7 M."""
    for size, unit in ((10**9, "B"), (10**6, "M")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:,}"


def training_facts(trainer: Any, measured: Measurements) -> dict[str, Any]:
    """Return a Trainer's data, hyperparameters, metrics, steps, time and memory as JSON values."""
    args, state = trainer.args, trainer.state
    metrics = history.metrics(state, measured.restored, measured.places)
    facts: dict[str, Any] = {
        "data": data_facts(trainer.train_dataset, trainer.eval_dataset),
        "hyperparameters": _hyperparameters(trainer),
        "seed": args.seed,
        "steps": measured.earlier.steps + state.global_step,
        "epochs": measured.earlier.epochs + state.epoch if state.epoch is not None else None,
        "metrics": metrics,
        "baselines": _baselines(trainer, measured, metrics),
        OTHER: _elsewhere(state, measured),
        "script": measured.script,
        "evaluation": evaluation_facts(trainer, metrics),
    }
    if measured.seconds:
        facts |= {
            "seconds": round(measured.seconds, 2),
            "hardware": hardware(),
            "peak_memory_bytes": peak_memory(),
        }
    if state.global_step:
        own = [log for at, log in enumerate(state.log_history) if at not in measured.places]
        taken = measured.earlier.followed_by(history.Taken(state.global_step, 0.0, own))
        facts["history"] = history.curve(taken.log, measured.scalars)
    return {name: value for name, value in facts.items() if value not in (None, {}, [], "")}


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


def _elsewhere(state: Any, measured: Measurements) -> list[dict[str, Any]]:
    """Return what the weights as they are were found to do on other data, the last of each."""
    step, start = measured.restored or (state.global_step, len(state.log_history))
    found: list[dict[str, Any]] = []
    for one in measured.elsewhere:
        if one.step == step or one.place >= start:
            found = [other for other in found if other["data"] != one.data]
            found.append({"data": one.data, "metrics": one.metrics})
    return found


def _baselines(
    trainer: Any, measured: Measurements, metrics: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return what the metrics compare with: the untrained model, and the commonest answer."""
    untrained = {name: measured.untrained[name] for name in metrics if name in measured.untrained}
    baselines = {"before training": untrained if trainer.state.global_step else {}}
    if "eval_accuracy" in metrics and (share := majority_share(trainer.eval_dataset)):
        baselines["majority class"] = {"eval_accuracy": share}
    return {name: values for name, values in baselines.items() if values}
