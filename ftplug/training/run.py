"""One Trainer's run: what it knows about its methods, its steps and its files.

The callback's events and the bound Trainer's overrides are thin; what they do is done here.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from accelerate.utils import reduce

from ftplug import structure
from ftplug.artifacts.author import Author, merged_author, require_base
from ftplug.artifacts.loading import continue_from
from ftplug.artifacts.saving import take_over_saving
from ftplug.attaching.attachment import (
    Attachment,
    attachment_of,
    prepare,
    require_attachment,
    unwrap_model,
)
from ftplug.attaching.holders import LEAVE_OUT, refuse_held
from ftplug.attaching.plan import Plan, drop_gradients, scheduled, set_trainable
from ftplug.attaching.self_check import Untested, self_check
from ftplug.base.inspecting import base_identity
from ftplug.context import Context
from ftplug.effect.taking import take_base, take_base_now
from ftplug.errors import MethodError
from ftplug.training import compat, history, processes, record, trl
from ftplug.training.activation_checkpointing import keep_gradients
from ftplug.training.batches import Batches
from ftplug.training.numerics import PATIENCE, WATCHED_STEPS, Losses, Movement
from ftplug.training.restarting.going_on import Restarts
from ftplug.training.restarting.preemption import Preemption

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import Trainer, TrainingArguments

    from ftplug.host import Host
    from ftplug.method import Method

LearningRateChoice = float | Literal["suggested"] | None


class Run:
    """What the methods of one Trainer are, and how its training goes.

    ``stage`` is the folder aside that a checkpoint is being written into, since ``staged_at`` by
    the file system's clock (the writer knows); None while none is. ``masked`` names what trains in
    this step, where every parameter must get a gradient. ``saved`` says where the last artifact
    went, and the step; ``resumes`` is the checkpoint it began with. ``reference`` is DPO's own.
    """

    def __init__(
        self,
        methods: list[Method],
        *,
        train_head: bool = True,
        lr: LearningRateChoice = None,
        start_from: str | os.PathLike[str] | None = None,
        check_finite: bool = True,
        allow_batch_change: bool = False,
        probe: bool = True,
    ) -> None:
        self.methods = methods
        self.train_head = train_head
        self.lr = lr
        self.start_from = start_from
        self.check_finite = check_finite
        self.probe = probe
        self.is_built = False  # the Trainer, before it was bound
        self.without_adapters = LEAVE_OUT  # what a script with peft adapters of its own can do
        self.batches = Batches()
        self.losses = Losses()  # of the optimizer step under way
        self.movement = Movement(())
        self.masked: set[str] | None = None
        self.measured = record.Measurements()
        self.words: Author = {}  # what the script told create_model_card
        self.told: Author = {}  # what the command line says, which counts more
        self.reference: trl.Reference | None = None
        self.saved: tuple[Path, int] | None = None
        self.stage: Path | None = None
        self.restarts = Restarts(allow_batch_change=allow_batch_change)
        self.preemption = Preemption()
        self.resumes: Path | None = None
        self.loading = ExitStack()  # open while DeepSpeed's engine reads a checkpoint
        self.staged_at = math.inf
        self.trains = False  # within train()
        self.before: Any = None  # what the Trainer had when it was bound
        self._trainer: weakref.ref[Trainer] | None = None

    @property
    def trainer(self) -> Trainer | None:
        """The Trainer, as long as the script keeps it: a list of callbacks keeps no model alive."""
        return self._trainer() if self._trainer else None

    def belongs_to(self, trainer: Trainer) -> None:
        """Note the Trainer that was bound."""
        self._trainer = weakref.ref(trainer)

    @property
    def author(self) -> Author:
        """What is known of the author's words."""
        return merged_author(self.words, self.told)

    @property
    def model(self) -> nn.Module:
        """The Trainer's model, without what the Trainer wraps around it."""
        assert self.trainer is not None
        return unwrap_model(cast("nn.Module", self.trainer.model))

    @property
    def attached(self) -> Attachment:
        """What is attached to the Trainer's model."""
        return require_attachment(self.model)

    # What ftplug.attaching.run_view.Surroundings asks for.

    @property
    def args(self) -> TrainingArguments | None:
        """The Trainer's arguments, once it is bound."""
        return self.trainer.args if self.trainer else None

    @property
    def total_steps(self) -> int | None:
        """The optimizer steps of the run, once training has begun."""
        return self.trainer.state.max_steps or None if self.trainer else None

    def log(self, scalars: Mapping[str, float]) -> None:
        """Keep numbers for the next log entry."""
        self.measured.log(scalars)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""
        return cast("Tensor", reduce(tensor, reduction="mean"))

    # Putting the methods on a model.

    def put_methods_on(self, model: nn.Module, trainer: Trainer) -> Attachment:
        """Apply the methods to a model of this Trainer."""
        args = trainer.args
        context = Context(
            seed=args.seed,
            task=structure.task_of(model),
            model_class=type(model).__name__,
            args=args,
            total_steps=args.max_steps if args.max_steps > 0 else None,
        )
        require_base(self.told, base_identity(model)["id"])
        adopted = attachment_of(model) is not None
        if not adopted:
            refuse_held(model, self.without_adapters)
        attached = prepare(
            model,
            self.methods,
            context,
            train_head=self.train_head,
            accept=lambda host, plan: self._accept(trainer, model, host, plan),
            surroundings=self,
        )
        take_over_saving(model)
        if attached.first_backward:  # applied before this Trainer was built
            attached.first_backward.stop()
            attached.first_backward = None
        if newer := compat.untested_version():
            tested = f"{compat.TESTED[0]} to {compat.TESTED[1]}"
            untested = Untested(newer, tested, allowed=compat.allow_untested())
            self_check(model, untested, untrained=not adopted)
        take_base(
            model,
            tokenizer=getattr(trainer, "processing_class", None),
            wanted=self.probe,
            later=processes.gradients_in_parts(trainer),
            untouched=not adopted,
        )
        if adopted:  # a later Trainer goes on with what an earlier one trained
            _require_fit(trainer, model, attached.host, attached.plan)
            attached.facts.surroundings = self
            set_trainable(unwrap_model(model), set(attached.plan.may_train))
        elif self.start_from is not None:
            continue_from(unwrap_model(model), self.start_from)
        return attached

    def _accept(self, trainer: Trainer, model: nn.Module, host: Host, plan: Plan) -> None:
        """Refuse, before the model is changed, what this Trainer cannot train."""
        _require_fit(trainer, model, host, plan)
        added = next((name for name in plan.may_train if name in plan.added), None)
        # A bound Trainer drops its optimizer itself when model_init builds a new model.
        if trainer.optimizer is not None and added and self.trainer is None:
            raise MethodError(
                f"{host.names} adds parameters ({added}), but this Trainer has an optimizer "
                "already (optimizers=, or a train() before): leave it out, or pass "
                "optimizer_cls_and_kwargs= instead"
            )

    # The events of training.

    def begin(self) -> None:
        """Refuse a Trainer that was never bound; start the clock and the watch."""
        if self.trainer is None:
            raise MethodError(
                "FTPlugCallback was added after the Trainer was built, when its optimizer may not "
                f"see new parameters: use ftplug.attach(trainer, {self.methods[0].name!r})"
            )
        if self.reference is not None:
            trl.require_reference(self.trainer, self.reference)
        trl.refuse_follower(self.trainer, self.model)
        in_parts = processes.mixed_in_parts(self.trainer)
        goes_on = self.resumes is not None or self.start_from is not None
        why_not = trl.asking_refusal(self.trainer)
        take_base_now(self.model, resumed=goes_on, mixed_precision=in_parts, why_not=why_not)
        self.measured.start(self.trainer.state.global_step)
        keep_gradients(self.model)
        self.losses = Losses()
        self.movement = Movement(
            () if processes.gradients_in_parts(self.trainer) else self.attached.plan.may_train
        )

    def begin_step(self, step: int, total_steps: int) -> None:
        """Let the scheduled parameters of optimizer step ``step`` (0-based) train."""
        attached = self.attached
        if not attached.host.implements("schedule_trainable"):
            return
        active = scheduled(self.model, attached.host, attached.plan, step, total_steps)
        if processes.waits_for_every_gradient(getattr(self.trainer, "model_wrapped", None)):
            self.masked = active
        else:
            set_trainable(self.model, active)

    def drop_idle_gradients(self) -> None:
        """Take back, before clipping, the gradients of what is not scheduled in this step."""
        if self.masked is not None:
            drop_gradients(self.model, self.masked)

    def before_optimizer(self, step: int) -> None:
        """Show the gradients to the methods."""
        host = self.attached.host
        if host.implements("on_gradients"):
            host.call("on_gradients", model=self.model, step=step)
        if self.movement.watching:
            self.movement.before_step(dict(self.model.named_parameters()))

    def after_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """See what the optimizer moved, in the first few steps."""
        if self.movement.watching:
            skipped = getattr(optimizer, "step_was_skipped", False)
            rate = 0.0 if skipped else max(float(group["lr"]) for group in optimizer.param_groups)
            live = dict(self.model.named_parameters())
            self.movement.after_step(live, rate, self.masked)

    def end_step(self, optimizer: torch.optim.Optimizer, step: int, total_steps: int) -> None:
        """Tell the methods that optimizer step ``step`` (1-based) was taken."""
        host = self.attached.host
        if host.implements("on_step"):
            host.call(
                "on_step",
                model=self.model,
                optimizer=optimizer,
                step=step,
                total_steps=total_steps,
            )

    def logged(self, logging_steps: float) -> None:
        """Warn, once a log follows enough steps, of tensors that should have moved and did not."""
        if self.movement.steps >= (PATIENCE if logging_steps >= PATIENCE else WATCHED_STEPS):
            self._warn_of_still()

    def evaluated(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Remember how the untrained model does: what the trained one is compared with."""
        if step == 0 and not self.measured.is_elsewhere:
            self.measured.untrained |= history.evaluation(metrics)

    def end(self) -> None:
        """Leave every may-train parameter trainable, whatever the last step's schedule was."""
        assert self.trainer is not None
        self.measured.stop(self.trainer.state)
        self.masked = None
        self._warn_of_still()
        set_trainable(self.model, set(self.attached.plan.may_train))
        self.attached.training = record.training_facts(self.trainer, self.measured)
        self.attached.author = dict(self.author)

    def _warn_of_still(self) -> None:
        if self.movement.still:
            dtypes = {name: p.dtype for name, p in self.model.named_parameters()}
            self.movement.warn(self.attached.host.names, dtypes)


def _require_fit(trainer: Trainer, model: nn.Module, host: Host, plan: Plan) -> None:
    processes.check_launch(trainer, host)
    trl.refuse_bypassed_head(trainer, model, plan)
