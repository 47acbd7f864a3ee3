"""Binding methods to a Trainer: ``attach`` for one that exists, a callback for a new one."""

from __future__ import annotations

import math
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any, Literal, cast

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftplug import structure
from ftplug.artifacts.author import Author
from ftplug.artifacts.loading import continue_from
from ftplug.artifacts.saving import write_artifact_in_save_pretrained
from ftplug.attaching.attachment import (
    Attachment,
    attachment_of,
    prepare,
    require_attachment,
    unwrap_model,
)
from ftplug.attaching.plan import Plan, drop_gradients, scheduled, set_trainable
from ftplug.context import Context
from ftplug.errors import MethodError
from ftplug.host import Host, MethodLike, resolve
from ftplug.training import history, record, trl
from ftplug.training.activation_checkpointing import keep_gradients
from ftplug.training.bound_trainer import SavingTrainer, TrainerMixin, check_transformers
from ftplug.training.learning_rate import set_learning_rate
from ftplug.training.numerics import PATIENCE, WATCHED_STEPS, Losses, Movement
from ftplug.training.processes import check_launch, waits_for_every_gradient
from ftplug.training.resuming import save_between_steps
from ftplug.training.stepping import gradients_in_parts

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ftplug.method import Method


def attach(
    trainer: Trainer,
    *methods: MethodLike,
    train_head: bool = True,
    lr: float | Literal["suggested"] | None = None,
    check_finite: bool = True,
    **settings: Any,
) -> Trainer:
    """Switch the method of a Trainer that exists already, before its first ``train()``.

    ``attach(trainer, "lora", r=8)``. ``lr="suggested"`` sets the method's own learning rate, a
    number sets that one; otherwise the Trainer's stays. A loss or gradient that is NaN or infinite
    stops the run, unless ``check_finite=False``. Returns the same Trainer.
    """
    callback = FTPlugCallback(
        *methods, train_head=train_head, lr=lr, check_finite=check_finite, **settings
    )
    bind(trainer, callback)
    trainer.add_callback(callback)
    return trainer


class FTPlugCallback(TrainerCallback):
    """Switch the method of the Trainer it is given to: ``callbacks=[FTPlugCallback("lora", r=8)]``.

    It must be given to the constructor: added later it raises and names :func:`ftplug.attach`.
    ``start_from`` is an artifact of the same method to continue from.
    """

    def __init__(
        self,
        *methods: MethodLike,
        train_head: bool = True,
        lr: float | Literal["suggested"] | None = None,
        start_from: str | os.PathLike[str] | None = None,
        check_finite: bool = True,
        **settings: Any,
    ) -> None:
        number = isinstance(lr, int | float) and 0 < lr < float("inf")
        if not (lr is None or lr == "suggested" or number):
            raise MethodError(f"lr={lr!r}: give 'suggested' or a positive number")
        self.methods: list[Method] = resolve(methods, settings)
        self.train_head = train_head
        self.lr = lr
        self.start_from = start_from
        self.check_finite = check_finite
        self.losses = Losses()  # of the optimizer step under way
        self.movement = Movement(())
        self._trainer: weakref.ref[Trainer] | None = None
        self.reference: trl.Reference | None = None  # what a preference trainer compares with
        self.clock = record.Clock()
        self.author: Author = {}  # what the script told create_model_card
        self.saved: tuple[Path, int] | None = None  # where the last artifact went, at which step
        self.stage: Path | None = None  # where a checkpoint is being written
        self.staged_at = math.inf  # since when, by the file system's clock; the writer knows
        self.masked: set[str] | None = None  # what trains, where all must get a gradient

    @property
    def trainer(self) -> Trainer | None:
        """The Trainer, as long as the script keeps it: a list of callbacks keeps no model alive."""
        return self._trainer() if self._trainer else None

    @property
    def attached(self) -> Attachment:
        """What is attached to the Trainer's model."""
        return require_attachment(self._model())

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the model: the only event at which no optimizer exists yet."""
        bind(trainer_in_construction(self), self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a binding that came too late; start the clock."""
        if self.trainer is None:
            raise MethodError(
                "FTPlugCallback was added after the Trainer was built, when its optimizer may not "
                f"see new parameters: use ftplug.attach(trainer, {self.methods[0].name!r})"
            )
        if self.reference is not None:
            trl.require_reference(self.trainer, self.reference)
        self.clock.start()
        keep_gradients(self._model())
        self.losses = Losses()
        self.movement = Movement(
            () if gradients_in_parts(self.trainer) else self.attached.plan.may_train
        )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the scheduled parameters of this step train."""
        attached = self.attached
        if attached.host.implements("schedule_trainable"):
            model = self._model()
            active = scheduled(
                model, attached.host, attached.plan, state.global_step, state.max_steps
            )
            if waits_for_every_gradient(getattr(self.trainer, "model_wrapped", None)):
                self.masked = active
            else:
                set_trainable(model, active)

    def drop_idle_gradients(self) -> None:
        """Take back, before clipping, the gradients of what is not scheduled in this step."""
        if self.masked is not None:
            drop_gradients(self._model(), self.masked)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the gradients to the methods."""
        host = self.attached.host
        if host.implements("on_gradients"):
            host.call("on_gradients", model=self._model(), step=state.global_step)
        if self.movement.watching:
            self.movement.before_step(dict(self._model().named_parameters()))

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See what the optimizer moved, in the first few steps."""
        if self.movement.watching:
            optimizer = kwargs["optimizer"]
            skipped = getattr(optimizer, "step_was_skipped", False)
            rate = 0.0 if skipped else max(float(group["lr"]) for group in optimizer.param_groups)
            live = dict(self._model().named_parameters())
            self.movement.after_step(live, rate, self.masked)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn, once a log follows enough steps, of tensors that should have moved and did not."""
        enough = PATIENCE if args.logging_steps >= PATIENCE else WATCHED_STEPS
        if "loss" in (kwargs.get("logs") or {}) and self.movement.steps >= enough:
            self._warn_of_still()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the methods that a step was taken."""
        host = self.attached.host
        if host.implements("on_step"):
            host.call(
                "on_step",
                model=self._model(),
                optimizer=kwargs["optimizer"],
                step=state.global_step,
                total_steps=state.max_steps,
            )

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember how the untrained model does: what the trained one is compared with."""
        if state.global_step == 0:
            self.clock.untrained |= history.evaluation(kwargs.get("metrics") or {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave every may-train parameter trainable, whatever the last step's schedule was."""
        self.clock.stop()
        self.masked = None
        self._warn_of_still()
        set_trainable(self._model(), set(self.attached.plan.may_train))
        self.attached.training = record.training_facts(self.trainer, self.clock)

    def prepare(self, trainer: Trainer, model: nn.Module) -> Attachment:
        """Apply the methods to a model of this Trainer."""
        args = trainer.args
        context = Context(
            seed=args.seed,
            task=structure.task_of(model),
            model_class=type(model).__name__,
            args=args,
            total_steps=args.max_steps if args.max_steps > 0 else None,
        )

        def fit(host: Host, plan: Plan) -> None:
            check_launch(trainer, host)
            trl.refuse_bypassed_head(trainer, model, plan)

        def accept(host: Host, plan: Plan) -> None:
            fit(host, plan)
            added = next((name for name in plan.may_train if name in plan.added), None)
            # A bound Trainer drops its optimizer itself when model_init builds a new model.
            if trainer.optimizer is not None and added and not isinstance(trainer, TrainerMixin):
                raise MethodError(
                    f"{host.names} adds parameters ({added}), but this Trainer has an optimizer "
                    "already (optimizers=, or a train() before): leave it out, or pass "
                    "optimizer_cls_and_kwargs= instead"
                )

        adopted = attachment_of(model) is not None
        attached = prepare(model, self.methods, context, train_head=self.train_head, accept=accept)
        write_artifact_in_save_pretrained(model)
        if adopted:  # a later Trainer goes on with what an earlier one trained
            fit(attached.host, attached.plan)
            set_trainable(unwrap_model(model), set(attached.plan.may_train))
        elif self.start_from is not None:
            continue_from(unwrap_model(model), self.start_from)
        return attached

    def _warn_of_still(self) -> None:
        if self.movement.still:
            dtypes = {name: p.dtype for name, p in self._model().named_parameters()}
            self.movement.warn(self.attached.host.names, dtypes)

    def _model(self) -> nn.Module:
        assert self.trainer is not None
        return unwrap_model(cast("nn.Module", self.trainer.model))


def bind(trainer: Trainer, callback: FTPlugCallback) -> None:
    """Apply the callback's methods to the Trainer's model and splice in the mixin."""
    check_transformers()
    if not isinstance(trainer, Trainer):
        raise MethodError(f"attach needs a transformers.Trainer, not a {type(trainer).__name__}")
    if isinstance(trainer, TrainerMixin):
        raise MethodError(
            f"this {type(trainer).__name__} already has {trainer.ftplug.attached.host.names}: give "
            "all methods to one FTPlugCallback or attach, e.g. attach(trainer, 'lora', 'bitfit')"
        )
    if trainer.optimizer is not None and callback.lr is not None:
        raise MethodError(
            "lr= has no effect: this Trainer has an optimizer already (optimizers=, or a train() "
            "before): set the rate there"
        )
    model = cast("nn.Module", trainer.model)
    trained_before = attachment_of(model) is not None or callback.start_from is not None
    holds_base = trl.holds_base(trainer)
    callback.prepare(trainer, model)
    callback.reference = trl.give_reference(
        trainer, trained_before=trained_before, holds_base=holds_base
    )
    set_learning_rate(trainer.args, callback.methods, callback.lr)
    cls = type(trainer)
    # Same name and module: reports and model cards print them.
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    behind = (SavingTrainer,) if cls is Trainer else (cls, SavingTrainer)
    metaclass: Any = type(cls)
    trainer.__class__ = metaclass(cls.__name__, (TrainerMixin, *behind), names)
    trainer.ftplug = callback  # type: ignore[attr-defined]
    callback._trainer = weakref.ref(trainer)
    save_between_steps(trainer)


def trainer_in_construction(callback: FTPlugCallback) -> Trainer:
    """Find the Trainer whose ``__init__`` is calling: transformers hands callbacks none."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    raise MethodError("FTPlugCallback works in a transformers Trainer: no Trainer is calling it")
