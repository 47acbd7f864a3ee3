"""A Trainer without its methods again: as it was built, and free for others."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from transformers import Trainer, TrainerControl, TrainerState, enable_full_determinism, set_seed
from transformers.trainer_callback import ExportableState

from ftplug.attaching.attachment import attachment_of, unwrap_model
from ftplug.attaching.detaching import detach_model
from ftplug.attaching.holders import was_merged
from ftplug.errors import MethodError
from ftplug.training.bound_trainer import TrainerMixin
from ftplug.training.resuming import save_at_any_moment

if TYPE_CHECKING:
    from ftplug.training.run import Run


@dataclass(frozen=True)
class Before:
    """What a Trainer had before it was bound, and that training or ``lr=`` puts another for.

    ``scaler`` is the state of mixed precision's loss scaling, where there is one.
    """

    cls: type[Trainer]
    learning_rate: float
    optimizer: Any
    lr_scheduler: Any
    created_scheduler: bool
    scaler: dict[str, Any] | None

    @classmethod
    def of(cls, trainer: Any) -> Before:
        """Note it of a Trainer that is about to be bound."""
        scaler = trainer.accelerator.scaler
        return cls(
            type(trainer),
            trainer.args.learning_rate,
            trainer.optimizer,
            trainer.lr_scheduler,
            trainer._created_lr_scheduler,
            copy.deepcopy(scaler.state_dict()) if scaler is not None else None,
        )


def detach_trainer(trainer: Trainer) -> Trainer:
    """Take the methods off a Trainer's model, and the binding off the Trainer.

    It is then as its constructor left it: no optimizer but one that it was given, no state, the
    random generators seeded. Raises :class:`MethodError` where the model cannot be given back.
    """
    run = _require_run(trainer)
    model = unwrap_model(cast("Any", trainer.model))
    if attachment_of(model) is not None:
        detach_model(model, trainer=trainer)
    _unbind(trainer, run)
    return trainer


def _require_run(trainer: Any) -> Run:
    name = type(trainer).__name__
    if not isinstance(trainer, TrainerMixin):
        raise MethodError(f"detach: this {name} has no ftplug method: it is plain")
    run = trainer.ftplug
    if run.trains:
        raise MethodError(f"detach: {name}.train() is running: wait until it ends, or interrupt it")
    if run.model is not trainer.model:
        inner = unwrap_model(cast("Any", trainer.model))
        how = "wrapped" if inner is run.model else "another one than carries its methods"
        raise MethodError(
            f"detach: this {name}'s model is {how} ({type(trainer.model).__name__}): build a new "
            "Trainer with a fresh base"
        )
    engine = getattr(trainer, "deepspeed", None)
    if engine is not None or hasattr(cast("Any", trainer).model_wrapped, "_orig_mod"):
        what = "DeepSpeed's engine holds" if engine is not None else "torch.compile has compiled"
        raise MethodError(
            f"detach: {what} this {name}'s model: save the artifact, and build a new Trainer with "
            "a fresh base"
        )
    if was_merged(run.model):
        raise MethodError(
            f"detach: this {name}'s model was merged: its own weights hold what was learned: build "
            "a new Trainer with a fresh base"
        )
    return run


def _unbind(trainer: Any, run: Run) -> None:
    """Give the Trainer its own class and what it had; what its last ``train()`` made goes."""
    before: Before = run.before
    handler = trainer.callback_handler
    trainer.__class__ = before.cls
    del trainer.ftplug
    for callback in [c for c in handler.callbacks if getattr(c, "run", None) is run]:
        trainer.remove_callback(callback)
    save_at_any_moment(trainer)
    if run.lr is not None:
        trainer.args.learning_rate = before.learning_rate
    trainer.accelerator.free_memory()
    if before.scaler is not None:
        trainer.accelerator.scaler.load_state_dict(before.scaler)
    trainer.optimizer, trainer.lr_scheduler = before.optimizer, before.lr_scheduler
    trainer._created_lr_scheduler = before.created_scheduler
    trainer.model_wrapped = trainer.model
    for name in ("model", "optimizer", "lr_scheduler"):
        setattr(handler, name, getattr(trainer, name))
    _as_constructed(trainer)


def _as_constructed(trainer: Any) -> None:
    """Set what the Trainer's constructor sets, the random generators among it."""
    trainer.is_in_train = False  # it stays so where train() was interrupted
    trainer.current_flos = 0
    trainer._train_batch_size = trainer.args.train_batch_size  # auto_find_batch_size lowers it
    trainer._mixed_mesh_grads = None
    trainer.control = TrainerControl()
    callbacks = [*trainer.callback_handler.callbacks, trainer.control]
    stateful: list[Any] = [one for one in callbacks if isinstance(one, ExportableState)]
    trainer.state = TrainerState(
        is_local_process_zero=trainer.is_local_process_zero(),
        is_world_process_zero=trainer.is_world_process_zero(),
        stateful_callbacks=stateful,
    )
    seed = enable_full_determinism if trainer.args.full_determinism else set_seed
    seed(trainer.args.seed)
