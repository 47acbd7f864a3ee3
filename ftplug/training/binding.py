"""Binding methods to a Trainer: ``attach`` for one that exists, a callback for a new one."""

from __future__ import annotations

import os
from typing import Any, cast

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftplug.attaching.attachment import attachment_of, unwrap_model
from ftplug.attaching.changing import changes_model
from ftplug.attaching.sharing_base.checking import require_shared_as_it_was
from ftplug.errors import MethodError
from ftplug.frames import trainer_in_construction
from ftplug.host import MethodLike, resolve
from ftplug.training import trl
from ftplug.training.bound_trainer import SavingTrainer, TrainerMixin
from ftplug.training.compat import check_transformers
from ftplug.training.learning_rate import set_learning_rate
from ftplug.training.resuming import save_between_steps
from ftplug.training.run import LearningRateChoice, Run
from ftplug.training.running.alone import warn_if_alone
from ftplug.training.running.detaching import Before
from ftplug.training.trainer_names import check_trainer, overrides


def attach(
    trainer: Trainer,
    *methods: MethodLike,
    train_head: bool = True,
    lr: LearningRateChoice = None,
    check_finite: bool = True,
    allow_batch_change: bool = False,
    probe: bool = True,
    **settings: Any,
) -> Trainer:
    """Switch the method of a Trainer that exists already, before its first ``train()``.

    ``attach(trainer, "lora", r=8)``. ``lr="suggested"`` sets the method's own learning rate, a
    number sets that one; otherwise the Trainer's stays. A loss or gradient that is NaN or infinite
    stops the run, unless ``check_finite=False``. A checkpoint of another global batch is resumed
    with ``allow_batch_change=True`` alone. ``probe=False`` leaves the probe out of the artifact, by
    which a load sees that the methods take effect. Returns the same Trainer.
    """
    callback = FTPlugCallback(
        *methods,
        train_head=train_head,
        lr=lr,
        check_finite=check_finite,
        allow_batch_change=allow_batch_change,
        probe=probe,
        **settings,
    )
    callback.run.is_built = True
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
        lr: LearningRateChoice = None,
        start_from: str | os.PathLike[str] | None = None,
        check_finite: bool = True,
        allow_batch_change: bool = False,
        probe: bool = True,
        **settings: Any,
    ) -> None:
        number = isinstance(lr, int | float) and 0 < lr < float("inf")
        if not (lr is None or lr == "suggested" or number):
            raise MethodError(f"lr={lr!r}: give 'suggested' or a positive number")
        self.run = Run(
            resolve(methods, settings),
            train_head=train_head,
            lr=lr,
            start_from=start_from,
            check_finite=check_finite,
            allow_batch_change=allow_batch_change,
            probe=probe,
        )

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Change the model: the only event at which no optimizer exists yet."""
        self.bind(trainer_in_construction(self))

    def bind(self, trainer: Trainer) -> None:
        """Apply the methods to a Trainer's model."""
        bind(trainer, self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Refuse a binding that came too late, and a base that was written to; start the clock."""
        if self.run.trainer is not None:
            require_shared_as_it_was(self.run.model, "train")
        self.run.begin()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let the scheduled parameters of this step train."""
        self.run.begin_step(state.global_step, state.max_steps)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the gradients to the methods."""
        self.run.before_optimizer(state.global_step)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See what the optimizer moved, in the first few steps."""
        self.run.after_optimizer(kwargs["optimizer"])

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the methods that a step was taken."""
        self.run.end_step(kwargs["optimizer"], state.global_step, state.max_steps)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn of tensors that should have moved by now."""
        if "loss" in (kwargs.get("logs") or {}):
            self.run.logged(args.logging_steps)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember how the untrained model does."""
        self.run.evaluated(state.global_step, kwargs.get("metrics") or {})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sum up the run."""
        self.run.end()


@changes_model
def bind(trainer: Trainer, callback: FTPlugCallback) -> None:
    """Apply the callback's methods to the Trainer's model and splice in the mixin."""
    run = callback.run
    if not isinstance(trainer, Trainer):
        raise MethodError(f"attach needs a transformers.Trainer, not a {type(trainer).__name__}")
    check_transformers()
    check_trainer(trainer, overrides(TrainerMixin, SavingTrainer))
    if isinstance(trainer, TrainerMixin):
        raise MethodError(_already_bound(trainer, run))
    if trainer.optimizer is not None and run.lr is not None:
        raise MethodError(
            "lr= has no effect: this Trainer has an optimizer already (optimizers=, or a train() "
            "before): set the rate there"
        )
    warn_if_alone(trainer.args.world_size)
    model = cast("Any", trainer.model)
    require_shared_as_it_was(unwrap_model(model), "train")
    trained_before = attachment_of(model) is not None or run.start_from is not None
    holds_base = trl.holds_base(trainer)
    before = Before.of(trainer)
    run.put_methods_on(model, trainer)
    run.reference = trl.give_reference(
        trainer, trained_before=trained_before, holds_base=holds_base
    )
    set_learning_rate(trainer.args, run.methods, run.lr)
    _splice(trainer)
    trainer.ftplug = run  # type: ignore[attr-defined]
    run.before = before
    run.belongs_to(trainer)
    save_between_steps(trainer)


def _already_bound(trainer: TrainerMixin, run: Run) -> str:
    """Say which methods a Trainer has, and what to do for those it is given now."""
    has = [method.name for method in trainer.ftplug.methods]
    new = [method.name for method in run.methods if method.name not in has]
    both = "".join(f", {name!r}" for name in (*has, *new))
    together = f"; to train both give them at once: attach(trainer{both})" if new else ""
    other = " + ".join(new) or "with other settings"
    return (
        f"this {type(trainer).__name__} already has {' + '.join(has)}, and keeps it: to train "
        f"{other} take that off first (ftplug.detach), or build a new Trainer with a fresh base"
        f"{together}"
    )


def bind_at_train(trainer: Trainer, callback: FTPlugCallback) -> None:
    """Bind when ``train()`` is first called: the Trainer may get its data until then, or never."""

    def train(*args: Any, **kwargs: Any) -> Any:
        del trainer.__dict__["train"]
        callback.run.is_built = True
        callback.bind(trainer)
        return trainer.train(*args, **kwargs)

    trainer.__dict__["train"] = train


def _splice(trainer: Trainer) -> None:
    """Make the Trainer's class a subclass of itself, with ours in front and behind."""
    cls = type(trainer)
    # Same name and module: reports and model cards print them.
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    behind = (SavingTrainer,) if cls is Trainer else (cls, SavingTrainer)
    metaclass: Any = type(cls)
    trainer.__class__ = metaclass(cls.__name__, (TrainerMixin, *behind), names)
