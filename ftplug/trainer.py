"""The bound Trainer: with ``resuming`` and ``uploading``, all private Trainer API that we touch.

The binding puts ``TrainerMixin`` in front of a Trainer's own class and ``SavingTrainer`` behind it,
so that TRL's, sentence-transformers' and Seq2Seq trainers keep their own behaviour. ``TESTED`` says
for which versions of transformers the private names hold.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import transformers
from packaging.version import Version
from transformers import Trainer, TrainerState, TrainingArguments

from ftplug import facts
from ftplug.artifact import annotate, save
from ftplug.attachment import Attachment, require_attachment, unwrapped
from ftplug.author import author_from_card, merged_author
from ftplug.checkpoint import (
    CHECKPOINT_STAGE,
    STATE,
    read_checkpoint,
    seal,
    write_checkpoint,
)
from ftplug.errors import ArtifactError, MethodError
from ftplug.files import stated
from ftplug.manifest import MANIFEST
from ftplug.plan import set_trainable
from ftplug.resuming import ResumeMixin, has_own_format
from ftplug.rotation import move_old_checkpoints
from ftplug.swapping import replace_directory
from ftplug.uploading import UploadMixin

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.binding import FTPlugCallback

TESTED = (Version("5.23"), Version("5.24"))  # from, up to but not including


def check_transformers() -> None:
    """Refuse a transformers whose private names were not tested."""
    found = Version(Version(transformers.__version__).base_version)
    if not TESTED[0] <= found < TESTED[1]:
        raise MethodError(
            f"ftplug's Trainer binding is tested with transformers >={TESTED[0]},<{TESTED[1]}, "
            f"not {found}: install one of those"
        )


class TrainerMixin(ResumeMixin, UploadMixin):
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
        self.ftplug.prepare(cast("Trainer", self), model)
        return model

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write ftplug's card, with what the script says of the model, beside its artifact.

        The artifact is saved first where there is none, and what was measured since it was saved is
        added. While a checkpoint is written (TRL asks for a card then) the words are only kept.
        """
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        own = inspect.signature(super().create_model_card)  # type: ignore[misc]
        said = author_from_card({**own.bind_partial(*args).arguments, **kwargs})
        self.ftplug.author = merged_author(self.ftplug.author, said)
        if self.ftplug.stage is not None:
            return
        directory, training = Path(self.args.output_dir or "."), None
        if not (directory / MANIFEST).is_file():
            if has_own_format(self):  # gathering the tensors takes all processes
                raise ArtifactError(f"{directory} holds no artifact: call save_model() first")
            self._save(str(directory))  # type: ignore[attr-defined]
        elif self.ftplug.saved == (directory.resolve(), self.state.global_step):
            training = facts.training_facts(self, self.ftplug.clock)
        annotate(directory, training=training, **self.ftplug.author)

    def _get_output_dir(self, *args: Any, **kwargs: Any) -> str:
        stage = self.ftplug.stage
        return str(stage) if stage else super()._get_output_dir(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside and rename it: it exists complete or not at all."""
        if has_own_format(self):
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
            if self.args.should_save:
                limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
                move_old_checkpoints(run_dir, stage, limit, best, run_dir / name)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))

    def _name_best_checkpoint(self, staged: Path, final: Path) -> None:
        """The Trainer noted the staged path as the best checkpoint: note the final one."""
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(staged / "trainer_state.json"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload the artifact as it is now, once the checkpoint has its final name."""
        if self.ftplug.stage is None:
            self.upload_from_checkpoint(Path(checkpoint_folder), self._save)  # type: ignore[attr-defined]

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Resume: the same method and settings, or a refusal."""
        if has_own_format(self):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        else:
            read_checkpoint(unwrapped(model or self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the best checkpoint's tensors."""
        if has_own_format(self):
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
                author=self.ftplug.author,
                processing_class=tokenizer,
                state_dict=state_dict,
            )
            self.ftplug.saved = (directory.resolve(), self.state.global_step)
            return
        directory.mkdir(parents=True, exist_ok=True)
        write_checkpoint(model, directory, state_dict)
        if tokenizer is not None:
            tokenizer.save_pretrained(str(directory))


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


def _give_final_name(trainer: Any, stage: Path, final: Path) -> None:
    """Rename the staged checkpoint once all processes have written their part.

    Where nodes share no disk, each has a part of its own: its first process renames that one.
    """
    trainer.accelerator.wait_for_everyone()
    since = trainer.ftplug.staged_at
    if trainer.args.should_save:
        seal(stage)
        replace_directory(stage, final, since)
    trainer.accelerator.wait_for_everyone()
    if trainer.args.local_process_index == 0 and stage.is_dir():
        replace_directory(stage, final, since)


@contextmanager
def _staging(trainer: Any, run_dir: Path) -> Iterator[Path]:
    """Redirect the Trainer's checkpoint into a folder aside, the same one on every process."""
    stage = run_dir / CHECKPOINT_STAGE
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
