"""The bound Trainer: all private Trainer API we touch, with ``stepping`` and its like.

The binding puts ``TrainerMixin`` in front of a Trainer's own class and ``SavingTrainer`` behind it,
so that TRL's, sentence-transformers' and Seq2Seq trainers keep their own behaviour. ``TESTED`` says
for which versions of transformers the private names hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import transformers
from accelerate.utils import broadcast_object_list
from packaging.version import Version
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ftplug import facts
from ftplug.artifact import annotate, save
from ftplug.attachment import Attachment, require_attachment, unwrapped
from ftplug.author import author_from_card, merged_author
from ftplug.checkpoint import (
    STATE,
    read_checkpoint,
    seal,
    write_checkpoint,
)
from ftplug.errors import ArtifactError, MethodError
from ftplug.files import STAGE, close_stage, open_stage, stated
from ftplug.manifest import MANIFEST
from ftplug.plan import set_trainable
from ftplug.processes import check_shardable, together
from ftplug.resuming import ResumeMixin, has_own_format
from ftplug.rotation import move_old_checkpoints
from ftplug.sharding import is_sharded, load_optimizer_state, optimizer_state
from ftplug.stepping import StepMixin, SteppingTrainer
from ftplug.swapping import replace_directory
from ftplug.tensors import gathered_tensors
from ftplug.uploading import UploadMixin

if TYPE_CHECKING:
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


class TrainerMixin(StepMixin, ResumeMixin, UploadMixin):
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
        if self.is_fsdp_enabled:  # type: ignore[attr-defined]
            check_shardable(model, attached.plan, attached.host.names)
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
            # Gathering the tensors takes all processes.
            if self.is_deepspeed_enabled or is_sharded(self.model):  # type: ignore[attr-defined]
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
            with together("saving a checkpoint"):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            if _lacks_state(self, stage / name):
                # The class saves in a way of its own; resuming needs ours as well.
                tensors = gathered_tensors(unwrapped(self.model))
                if self.args.should_save:
                    (stage / name).mkdir(exist_ok=True)
                    write_checkpoint(unwrapped(self.model), stage / name, tensors)
            self._name_best_checkpoint(stage / name, run_dir / name)
            _give_final_name(self, stage / name, run_dir / name)
            with together("removing old checkpoints"):
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
            save = partial(self.save_model, _internal_call=True)  # type: ignore[attr-defined]
            self.upload_from_checkpoint(Path(checkpoint_folder), save)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        """Resume: the same method and settings, or a refusal."""
        if has_own_format(self):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        with together("resuming"):
            read_checkpoint(unwrapped(model or self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the best checkpoint's tensors."""
        if has_own_format(self):
            super()._load_best_model()  # type: ignore[misc]
        elif self.state.best_model_checkpoint is None:
            raise ArtifactError("no best checkpoint was recorded in this run")
        else:
            with together("loading the best model"):
                read_checkpoint(unwrapped(self.model), Path(self.state.best_model_checkpoint))
            best = self.state.best_global_step or 0
            self.ftplug.clock.restored = (best, len(self.state.log_history))


class SavingTrainer(SteppingTrainer):
    """Stands behind the user's class and before the Trainer: what ``super()._save()`` reaches.

    So a subclass that saves a little more still does.
    """

    ftplug: FTPlugCallback
    lr_scheduler: Any

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Gather what is saved where it is sharded: the Trainer gathers the base too, or nothing.

        All processes must call.
        """
        # A script may call this on the main process alone; while a checkpoint is saved all do.
        with nullcontext() if self.ftplug.stage is None else together("saving a checkpoint"):
            if not self.is_fsdp_enabled:
                super().save_model(output_dir, _internal_call)
                return
            self._save(output_dir, gathered_tensors(unwrapped(cast("nn.Module", self.model))))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write whole tensors: any number of processes, and a schedule, can go on from them."""
        with together("saving the optimizer's state"):
            if not self.is_fsdp_enabled:
                super()._save_optimizer_and_scheduler(output_dir)
                return
            state = optimizer_state(self.optimizer)
            if self.args.should_save:
                torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read them back."""
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        files = [Path(checkpoint) / name for name in (OPTIMIZER_NAME, SCHEDULER_NAME)]
        if all(file.is_file() for file in files):  # not so with save_only_model
            state, schedule = (torch.load(f, map_location="cpu", weights_only=True) for f in files)
            load_optimizer_state(self.optimizer, state)
            self.lr_scheduler.load_state_dict(schedule)

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


def _lacks_state(trainer: Any, directory: Path) -> bool:
    """Whether the checkpoint's writer has not written our files; where sharded, all must know."""
    lacks = trainer.args.should_save and not (directory / STATE).is_file()
    return bool(broadcast_object_list([lacks])[0]) if trainer.is_fsdp_enabled else lacks


def _give_final_name(trainer: Any, stage: Path, final: Path) -> None:
    """Rename the staged checkpoint once all processes have written their part.

    Where nodes share no disk, each has a part of its own: its first process renames that one.
    """
    since = trainer.ftplug.staged_at
    with together("naming a checkpoint"):
        if trainer.args.should_save:
            seal(stage)
            replace_directory(stage, final, since)
    with together("naming a checkpoint"):
        if trainer.args.local_process_index == 0 and stage.is_dir():
            replace_directory(stage, final, since)


@contextmanager
def _staging(trainer: Any, run_dir: Path) -> Iterator[Path]:
    """Redirect the Trainer's checkpoint into a folder aside, the same one on every process.

    Its name is the first process's own: another run in the same folder has another.
    """
    callback: FTPlugCallback = trainer.ftplug
    with stated(run_dir):
        name = None
        with together(f"writing to {run_dir}"):
            if trainer.args.process_index == 0:
                run_dir.mkdir(parents=True, exist_ok=True)
                name = open_stage(run_dir, STAGE).name
        stage = run_dir / str(broadcast_object_list([name])[0])
        with together(f"writing to {run_dir}"):
            if trainer.args.should_save:
                stage.mkdir(parents=True, exist_ok=True)
                callback.staged_at = stage.stat().st_mtime
        callback.stage = stage
        try:
            yield stage
        finally:
            callback.stage = None
            if trainer.args.local_process_index == 0:
                close_stage(stage)
        trainer.accelerator.wait_for_everyone()
