"""Binding methods to a Trainer: ``FTPlugCallback``, ``attach``, and all private Trainer API.

The binding makes the Trainer's class a subclass of itself with one small mixin in front, so that
TRL's, sentence-transformers' and Seq2Seq trainers keep their own behaviour. Nothing else in ftplug
touches a private name of ``transformers.Trainer``; ``TESTED`` says for which versions they hold.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import transformers
from packaging.version import Version
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import rotate_checkpoints

from ftplug import facts, structure
from ftplug.artifact import save
from ftplug.attachment import Attachment, attachment_of, prepare, require_attachment, unwrapped
from ftplug.checkpoint import STATE, read_checkpoint, write_checkpoint
from ftplug.context import Context
from ftplug.errors import ArtifactError, MethodError
from ftplug.files import STAGE, replace_directory, stated
from ftplug.host import Host, MethodLike, resolve
from ftplug.loading import continue_from
from ftplug.plan import Plan, scheduled, set_trainable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn

    from ftplug.method import LearningRate, Method

TESTED = (Version("5.23"), Version("5.24"))  # from, up to but not including

logger = logging.getLogger("ftplug")


def attach(
    trainer: Trainer,
    *methods: MethodLike,
    train_head: bool = True,
    lr: float | Literal["suggested"] | None = None,
    **settings: Any,
) -> Trainer:
    """Switch the method of a Trainer that exists already, before its first ``train()``.

    ``attach(trainer, "lora", r=8)``. ``lr="suggested"`` sets the method's own learning rate, a
    number sets that one; otherwise the Trainer's stays. Returns the same Trainer.
    """
    callback = FTPlugCallback(*methods, train_head=train_head, lr=lr, **settings)
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
        **settings: Any,
    ) -> None:
        number = isinstance(lr, int | float) and 0 < lr < float("inf")
        if not (lr is None or lr == "suggested" or number):
            raise MethodError(f"lr={lr!r}: give 'suggested' or a positive number")
        self.methods: list[Method] = resolve(methods, settings)
        self.train_head = train_head
        self.lr = lr
        self.start_from = start_from
        self._trainer: weakref.ref[Trainer] | None = None
        self.clock = facts.Clock()
        self.stage: Path | None = None  # where a checkpoint is being written
        self.staged_at = 0.0  # since when, by the file system's clock

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
        self.clock.start()

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
            set_trainable(model, active)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the gradients to the methods."""
        host = self.attached.host
        if host.implements("on_gradients"):
            host.call("on_gradients", model=self._model(), step=state.global_step)

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

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave every may-train parameter trainable, whatever the last step's schedule was."""
        self.clock.stop()
        set_trainable(self._model(), set(self.attached.plan.may_train))
        self.attached.training = facts.training_facts(self.trainer, self.clock)

    def _model(self) -> nn.Module:
        assert self.trainer is not None
        return unwrapped(cast("nn.Module", self.trainer.model))


def bind(trainer: Trainer, callback: FTPlugCallback) -> None:
    """Apply the callback's methods to the Trainer's model and splice in the mixin."""
    _check_transformers()
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
    prepare_for(trainer, callback, cast("nn.Module", trainer.model))
    _set_learning_rate(trainer.args, callback)
    cls = type(trainer)
    # Same name and module: reports and model cards print them.
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    behind = (SavingTrainer,) if cls is Trainer else (cls, SavingTrainer)
    metaclass: Any = type(cls)
    trainer.__class__ = metaclass(cls.__name__, (TrainerMixin, *behind), names)
    trainer.ftplug = callback  # type: ignore[attr-defined]
    callback._trainer = weakref.ref(trainer)


def prepare_for(trainer: Trainer, callback: FTPlugCallback, model: nn.Module) -> Attachment:
    """Apply the callback's methods to a model of this Trainer."""
    args = trainer.args
    context = Context(
        seed=args.seed,
        task=structure.task_of(model),
        model_class=type(model).__name__,
        args=args,
        total_steps=args.max_steps if args.max_steps > 0 else None,
    )

    def accept(host: Host, plan: Plan) -> None:
        added = next((name for name in plan.may_train if name in plan.added), None)
        # A bound Trainer drops its optimizer itself when model_init builds a new model.
        if trainer.optimizer is not None and added and not isinstance(trainer, TrainerMixin):
            raise MethodError(
                f"{host.names} adds parameters ({added}), but this Trainer has an optimizer "
                "already (optimizers=, or a train() before): leave it out, or pass "
                "optimizer_cls_and_kwargs= instead"
            )

    adopted = attachment_of(model) is not None
    attached = prepare(
        model, callback.methods, context, train_head=callback.train_head, accept=accept
    )
    if adopted:  # a later Trainer goes on with what an earlier one trained
        set_trainable(unwrapped(model), set(attached.plan.may_train))
    elif callback.start_from is not None:
        continue_from(unwrapped(model), callback.start_from)
    return attached


class TrainerMixin:
    """What a bound Trainer does differently; everything else is the Trainer's own class."""

    ftplug: FTPlugCallback

    # Names of the Trainer that the mixin reads; its class comes second in the subclass.
    model: nn.Module
    args: TrainingArguments
    state: TrainerState
    optimizer: torch.optim.Optimizer | None
    processing_class: Any

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the method's optimizer, or the Trainer's over everything that may train."""
        model = unwrapped(self.model)
        attached = require_attachment(model)
        set_trainable(model, set(attached.plan.may_train))
        if self.optimizer is None and attached.host.implements("build_optimizer"):
            self.optimizer = _method_optimizer(model, attached, self.args)
        optimizer: torch.optim.Optimizer = super().create_optimizer(  # type: ignore[misc]
            *args, **kwargs
        )
        _check_optimizer(model, attached, optimizer)
        return optimizer

    def call_model_init(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Prepare the model that ``model_init`` builds anew for each ``train()`` or trial."""
        model: nn.Module = super().call_model_init(*args, **kwargs)  # type: ignore[misc]
        if self.place_model_on_device:  # type: ignore[attr-defined]
            self._move_model_to_device(model, self.args.device)  # type: ignore[attr-defined]
        prepare_for(self, self.ftplug, model)  # type: ignore[arg-type]
        return model

    def _get_output_dir(self, *args: Any, **kwargs: Any) -> str:
        stage = self.ftplug.stage
        return str(stage) if stage else super()._get_output_dir(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside and rename it: it exists complete or not at all."""
        if _has_own_format(self):
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            return
        run_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        with _staging(self, run_dir) as stage:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            if self.args.should_save and not (stage / name / STATE).is_file():
                # The class saves in a way of its own; resuming needs ours as well.
                (stage / name).mkdir(exist_ok=True)
                write_checkpoint(unwrapped(self.model), stage / name)
            self._name_best_checkpoint(stage / name, run_dir / name)
            _give_final_name(self, stage / name, run_dir / name)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _name_best_checkpoint(self, staged: Path, final: Path) -> None:
        """The Trainer noted the staged path as the best checkpoint: note the final one."""
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(staged / "trainer_state.json"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the artifact as it is now, once the checkpoint has its final name."""
        if self.ftplug.stage is None:
            if self.args.should_save:
                self._save(self.args.output_dir)  # type: ignore[attr-defined]
            super()._push_from_checkpoint(checkpoint_folder)  # type: ignore[misc]

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Resume: the same method and settings, or a refusal."""
        if _has_own_format(self):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        else:
            read_checkpoint(unwrapped(model or self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the best checkpoint's tensors."""
        if _has_own_format(self):
            super()._load_best_model()  # type: ignore[misc]
        elif self.state.best_model_checkpoint is None:
            raise ArtifactError("no best checkpoint was recorded in this run")
        else:
            read_checkpoint(unwrapped(self.model), Path(self.state.best_model_checkpoint))
            best = self.state.best_global_step or 0
            self.ftplug.clock.restored = (best, len(self.state.log_history))


class SavingTrainer(Trainer):
    """Stands behind the user's class and before the Trainer: what ``super()._save()`` reaches.

    So a subclass that saves a little more still does.
    """

    ftplug: FTPlugCallback

    def _save(
        self, output_dir: str | None = None, state_dict: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Write the checkpoint files while a checkpoint is saved, otherwise the artifact."""
        if not self.args.should_save:
            return
        model = unwrapped(cast("nn.Module", self.model))
        directory = Path(output_dir or self.args.output_dir or ".")
        tokenizer = self.processing_class or getattr(
            getattr(self, "data_collator", None), "tokenizer", None
        )
        if self.ftplug.stage is None:
            training = facts.training_facts(self, self.ftplug.clock)
            save(
                model,
                directory,
                training=training,
                processing_class=tokenizer,
                state_dict=state_dict,
            )
            return
        directory.mkdir(parents=True, exist_ok=True)
        write_checkpoint(model, directory, state_dict)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(directory))


def trainer_in_construction(callback: FTPlugCallback) -> Trainer:
    """Find the Trainer whose ``__init__`` is calling: transformers hands callbacks none."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Trainer) and callback in caller.callback_handler.callbacks:
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    raise MethodError("FTPlugCallback works in a transformers Trainer: no Trainer is calling it")


def _check_transformers() -> None:
    found = Version(Version(transformers.__version__).base_version)
    if not TESTED[0] <= found < TESTED[1]:
        raise MethodError(
            f"ftplug's Trainer binding is tested with transformers >={TESTED[0]},<{TESTED[1]}, "
            f"not {found}: install one of those"
        )


def _set_learning_rate(args: TrainingArguments, callback: FTPlugCallback) -> None:
    """Set the learning rate asked for; warn when it is far from what the method needs."""
    suggestions = [method.suggested_learning_rate() for method in callback.methods]
    known: LearningRate | None = next((s for s in suggestions if s), None)
    if callback.lr == "suggested":
        if known is None:
            raise MethodError("lr='suggested': none of these methods suggests a learning rate")
        args.learning_rate = known.suggested
    elif callback.lr is not None:
        args.learning_rate = float(callback.lr)
    if known and not known.low <= args.learning_rate <= known.high:
        logger.warning(
            "learning rate %g is outside the usual range of %s, %g to %g: try %g (lr='suggested')",
            args.learning_rate,
            callback.methods[0].name,
            known.low,
            known.high,
            known.suggested,
        )


def _method_optimizer(
    model: nn.Module, attached: Attachment, args: TrainingArguments
) -> torch.optim.Optimizer | None:
    """Return the one optimizer that a method builds, or None; two are an error."""
    live = dict(model.named_parameters())
    named = {name: live[name] for name in attached.plan.may_train}
    answers = [
        (method.name, optimizer)
        for method, optimizer in attached.host.call_each(
            "build_optimizer", model=model, args=args, named_parameters=named
        )
        if optimizer is not None
    ]
    if len(answers) > 1:
        names = " and ".join(name for name, _ in answers)
        raise MethodError(f"{names} each build an optimizer: one run takes one of them")
    optimizer: torch.optim.Optimizer | None = answers[0][1] if answers else None
    return optimizer


def _check_optimizer(
    model: nn.Module, attached: Attachment, optimizer: torch.optim.Optimizer
) -> None:
    """Every may-train tensor must be in the optimizer, or it would silently keep its value."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    held |= {id(p) for p in getattr(optimizer, "optimizer_dict", {})}
    live = dict(model.named_parameters())
    lost = [name for name in attached.plan.may_train if id(live[name]) not in held]
    if lost:
        raise MethodError(
            f"the optimizer does not hold {lost[0]} ({len(lost)} of {len(attached.plan.may_train)} "
            f"tensors of {attached.host.names} missing): it would never train"
        )


def _has_own_format(trainer: Any) -> bool:
    """FSDP and DeepSpeed write sharded checkpoints of their own."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def _give_final_name(trainer: Any, stage: Path, final: Path) -> None:
    """Rename the staged checkpoint once all processes have written their part.

    Where nodes share no disk, each has a part of its own: its first process renames that one.
    """
    trainer.accelerator.wait_for_everyone()
    since = trainer.ftplug.staged_at
    if trainer.args.should_save:
        replace_directory(stage, final, since)
    trainer.accelerator.wait_for_everyone()
    if trainer.args.local_process_index == 0 and stage.is_dir():
        replace_directory(stage, final, since)


@contextmanager
def _staging(trainer: Any, run_dir: Path) -> Iterator[Path]:
    """Redirect the Trainer's checkpoint into a folder aside, the same one on every process."""
    import shutil

    stage = run_dir / f"{STAGE}checkpoint"
    callback: FTPlugCallback = trainer.ftplug
    with stated(run_dir):
        if trainer.args.should_save:
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir(parents=True)
            callback.staged_at = stage.stat().st_mtime
        trainer.accelerator.wait_for_everyone()
        callback.stage = stage
        try:
            yield stage
        finally:
            callback.stage = None
            if trainer.args.should_save:
                shutil.rmtree(stage, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
