"""One tiny run through the real Trainer, and what it showed step by step."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from ftplug.attaching.attachment import Attachment, require_attachment
from ftplug.method import Method
from ftplug.testing import tiny
from ftplug.testing.compare import logits, weights
from ftplug.training.binding import attach

STEPS, CHECKPOINT = 6, 3  # a checkpoint halfway: it is resumed from, and it is scored best
EARLY = 1  # one more, to resume from where a warm-up or an average has only begun


@dataclass(eq=False)
class Run:
    """What a run showed. ``original`` names a tensor's base tensor, by identity, not by name.

    ``model`` is the best one, of step ``CHECKPOINT``; ``weights`` and ``logits`` are those of that
    checkpoint and of the last one, by step. Per step there are what was active and how many
    elements the optimizer's state had. ``optimized`` counts how often the optimizer holds a tensor.
    """

    model: nn.Module
    original: dict[str, str]
    folder: Path
    attached: Attachment = field(init=False)
    initial: dict[str, Tensor] = field(default_factory=dict)
    weights: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    logits: dict[int, Tensor] = field(default_factory=dict)
    active: list[set[str]] = field(default_factory=list)
    gradients: set[str] = field(default_factory=set)
    state_elements: list[int] = field(default_factory=list)
    optimized: dict[str, int] = field(default_factory=dict)

    @property
    def moved(self) -> set[str]:
        """The tensors that differ after the last step from what they were before the first."""
        last = self.weights[STEPS]
        return {name for name, value in self.initial.items() if not value.equal(last[name])}

    @property
    def ever_active(self) -> set[str]:
        """The tensors that trained in any step: all that may, unless there is a schedule."""
        return set().union(*self.active)


def train(
    model: nn.Module,
    methods: Sequence[Method],
    folder: Path,
    *,
    learning_rate: float,
    resume_from: Path | None = None,
    **options: Any,
) -> Run:
    """Train a tiny model with the methods attached, from the start or from a checkpoint.

    ``options`` are more of the Trainer's arguments.
    """
    before = {id(parameter): name for name, parameter in model.named_parameters()}
    trainer = tiny_trainer(model, folder, learning_rate=learning_rate, **options)
    attach(trainer, *methods)
    names = {name: before[id(p)] for name, p in model.named_parameters() if id(p) in before}
    run = Run(model, names, folder)
    run.attached = require_attachment(model)
    trainer.add_callback(Recorder(run))  # behind ftplug's own: it sees what the methods left
    with without_collecting():
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    return run


_frozen = False


@contextmanager
def without_collecting() -> Iterator[None]:
    """Set aside what there is within the block, unless somebody has done so for longer.

    ``train()`` collects garbage twice, in a process full of torch: half of the time it takes.
    """
    global _frozen
    # Counting walks through all that is set aside: it is done until there is something, once.
    if _frozen or gc.get_freeze_count():
        _frozen = True
        yield
        return
    gc.freeze()
    _frozen = True
    try:
        yield
    finally:
        gc.unfreeze()
        _frozen = False


def tiny_trainer(
    model: nn.Module, folder: Path, *, learning_rate: float, **options: Any
) -> Trainer:
    """Return a Trainer of ``STEPS`` steps of four rows, on the CPU."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_steps": STEPS,
        "save_steps": CHECKPOINT,
        "eval_strategy": "steps",
        "eval_steps": CHECKPOINT,
        "load_best_model_at_end": True,
        "metric_for_best_model": "earliness",
        "learning_rate": learning_rate,
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
        "use_cpu": True,
    }
    batch = tiny.inputs(cast("Any", model), rows=16)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(16)]
    args = TrainingArguments(str(folder), **(defaults | options))
    trainer = EarlyIsBest(model, args, train_dataset=rows, eval_dataset=rows[:4])
    trainer.remove_callback(PrinterCallback)
    return trainer


class EarlyIsBest(Trainer):
    """Scores the first checkpoint best, so that its being restored shows."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Report minus the step as the metric."""
        metrics = {"eval_earliness": -float(self.state.global_step)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


class Recorder(TrainerCallback):
    """Writes into a Run what the Trainer's events show."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note values and optimizer; listen to the gradients."""
        live = dict(self.run.model.named_parameters())
        if not self.run.initial:
            self.run.initial = weights(self.run.model)
        held = [id(p) for group in kwargs["optimizer"].param_groups for p in group["params"]]
        held += [id(p) for p in getattr(kwargs["optimizer"], "optimizer_dict", {})]
        self.run.optimized = {name: held.count(id(p)) for name, p in live.items()}
        for name in self.run.attached.plan.may_train:
            # Gradients as they are computed: a layer-wise optimizer keeps none until the step.
            self.hooks.append(live[name].register_hook(lambda g, name=name: self._note(name, g)))

    def _note(self, name: str, gradient: Tensor) -> None:
        if name not in self.run.gradients and bool(gradient.any()):
            self.run.gradients.add(name)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note what trains in this step."""
        live = self.run.model.named_parameters()
        self.run.active.append({name for name, p in live if p.requires_grad})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the optimizer's state, after the methods could drop some of it."""
        self.run.state_elements.append(_elements(kwargs["optimizer"].state_dict()["state"]))
        if state.global_step == EARLY:
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep what a checkpoint should bring back; the early one is only resumed from."""
        if state.global_step == EARLY:
            return
        self.run.weights[state.global_step] = weights(self.run.model)
        self.run.logits[state.global_step] = logits(self.run.model)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop listening."""
        for hook in self.hooks:
            hook.remove()


def _elements(state: Any) -> int:
    """Count the numbers in an optimizer's state, however nested; step counters do not count."""
    if isinstance(state, Tensor):
        return state.numel() if state.numel() > 1 else 0
    if isinstance(state, dict):
        return sum(map(_elements, state.values()))
    return sum(map(_elements, state)) if isinstance(state, list | tuple) else 0
