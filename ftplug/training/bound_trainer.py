"""The bound Trainer: what it does differently when it saves, loads and builds its optimizer.

The binding puts ``TrainerMixin`` in front of a Trainer's own class and ``SavingTrainer`` behind it,
so that TRL's, sentence-transformers' and Seq2Seq trainers keep their own behaviour.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from ftplug.artifacts.author import author_from_card, merged_author
from ftplug.artifacts.checkpoint import read_checkpoint, write_checkpoint
from ftplug.artifacts.manifest import MANIFEST
from ftplug.artifacts.saving import annotate, list_anew, save
from ftplug.artifacts.tensors import gathered_tensors
from ftplug.attaching.attachment import attachment_of, require_attachment, unwrap_model
from ftplug.attaching.plan import set_trainable
from ftplug.attaching.sharding import is_sharded, load_optimizer_state, optimizer_state
from ftplug.effect.taking import made_together
from ftplug.errors import ArtifactError
from ftplug.training import record
from ftplug.training.checkpoint_folder import (
    base_not_missed,
    give_final_name,
    lacks_state,
    move_old_checkpoints,
    staging,
    without_base,
)
from ftplug.training.optimizers import check_optimizer, method_optimizer
from ftplug.training.processes import check_shardable, together
from ftplug.training.restarting.another_number import Division
from ftplug.training.resuming import ResumeMixin
from ftplug.training.run import Run
from ftplug.training.stepping import StepMixin, SteppingTrainer
from ftplug.training.uploading import UploadMixin

if TYPE_CHECKING:
    from torch import nn


class TrainerMixin(StepMixin, ResumeMixin, UploadMixin):
    """What a bound Trainer does differently; everything else is the Trainer's own class."""

    ftplug: Run

    # Names of the Trainer that the mixin reads; its class comes second in the subclass.
    model: nn.Module
    args: TrainingArguments
    state: TrainerState
    optimizer: torch.optim.Optimizer | None
    processing_class: Any

    def __repr__(self) -> str:
        """Say what trains, as a notebook shows it: of a class that says something itself, after."""
        if attachment_of(unwrap_model(self.model)) is None:  # it was merged
            return super().__repr__()
        what = record.in_short(self)
        others = (cls for cls in type(self).__mro__ if cls is not TrainerMixin)
        if next(cls for cls in others if "__repr__" in vars(cls)) is object:
            return f"<{type(self).__name__}: {what}>"
        return f"{super().__repr__()} ({what})"

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the method's optimizer, or the Trainer's over everything that may train."""
        model = unwrap_model(self.model)
        attached = require_attachment(model)
        set_trainable(model, set(attached.plan.may_train))
        if self.is_fsdp_enabled:  # type: ignore[attr-defined]
            check_shardable(model, attached.plan, attached.host.names)
        if self.optimizer is None and attached.host.implements("build_optimizer"):
            self.optimizer = method_optimizer(model, attached, self.args)
        optimizer: torch.optim.Optimizer = super().create_optimizer(  # type: ignore[misc]
            *args, **kwargs
        )
        check_optimizer(model, attached, optimizer)
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; what was measured on other data than the Trainer's own is kept apart."""
        given = inspect.signature(super().evaluate).bind_partial(*args, **kwargs).arguments  # type: ignore[misc]
        prefix = given.get("metric_key_prefix", "eval")
        measured = self.ftplug.measured
        with record.evaluating(self, measured, given.get("eval_dataset"), prefix):
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        return metrics

    def call_model_init(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Prepare the model that ``model_init`` builds anew for each ``train()`` or trial."""
        model: nn.Module = super().call_model_init(*args, **kwargs)  # type: ignore[misc]
        if self.place_model_on_device:  # type: ignore[attr-defined]
            self._move_model_to_device(model, self.args.device)  # type: ignore[attr-defined]
        self.ftplug.put_methods_on(model, cast("Trainer", self))
        self.ftplug.measured.anew()
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
        self.ftplug.words = merged_author(self.ftplug.words, said)
        if self.ftplug.stage is not None:
            return
        directory, training = Path(self.args.output_dir or "."), None
        if not (directory / MANIFEST).is_file():
            # Gathering the tensors takes all processes.
            if self.is_deepspeed_enabled or is_sharded(self.model):  # type: ignore[attr-defined]
                raise ArtifactError(f"{directory} holds no artifact: call save_model() first")
            self._save(str(directory))
        elif self.ftplug.saved == (directory.resolve(), self.state.global_step):
            training = record.training_facts(self, self.ftplug.measured)
        annotate(directory, training=training, **self.ftplug.author)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log what methods logged since the last entry along with the loss."""
        super().log(self.ftplug.measured.with_scalars(logs), *args, **kwargs)  # type: ignore[misc]

    def _get_output_dir(self, *args: Any, **kwargs: Any) -> str:
        stage = self.ftplug.stage
        return str(stage) if stage else super()._get_output_dir(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the checkpoint aside and rename it: it exists complete or not at all."""
        run_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        with staging(self, run_dir) as stage:
            with together("saving a checkpoint"):
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            with together("saving a checkpoint"):  # all gather, so all must have come this far
                if lacks_state(self, stage / name):
                    # The class saves in a way of its own; resuming needs ours as well.
                    tensors = gathered_tensors(self.ftplug.model, self.ftplug.attached.plan)
                    if self.args.should_save:
                        (stage / name).mkdir(exist_ok=True)
                        write_checkpoint(unwrap_model(self.model), stage / name, tensors)
                if self.args.should_save:
                    Division.of(self).write(stage / name)
                self._name_best_checkpoint(stage / name, run_dir / name)
            give_final_name(self, stage / name, run_dir / name)
            with together("removing old checkpoints"):
                if self.args.should_save:
                    limit, best = self.args.save_total_limit, self.state.best_model_checkpoint
                    move_old_checkpoints(run_dir, stage, limit, best, run_dir / name)
        self.ftplug.preemption.saved = self.state.global_step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """Save as the Trainer's class does, and list what it wrote over the artifact's files."""
        super()._save(output_dir, *args, **kwargs)  # type: ignore[misc]
        if self.args.should_save:
            list_anew(Path(output_dir or self.args.output_dir or "."))

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
        with together("resuming"):
            read_checkpoint(unwrap_model(model or self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        """Load the best checkpoint's tensors."""
        if self.state.best_model_checkpoint is None:
            raise ArtifactError("no best checkpoint was recorded in this run")
        model = unwrap_model(self.model)
        with together("loading the best model"):
            read_checkpoint(model, Path(self.state.best_model_checkpoint))
        if self.is_deepspeed_enabled:  # type: ignore[attr-defined]
            with base_not_missed(model):  # what its optimizer keeps of the weights must be theirs
                super()._load_best_model()  # type: ignore[misc]
        best = self.state.best_global_step or 0
        self.ftplug.measured.restored = (best, len(self.state.log_history))


class SavingTrainer(SteppingTrainer):
    """Stands behind the user's class and before the Trainer: what ``super()._save()`` reaches.

    So a subclass that saves a little more still does.
    """

    ftplug: Run
    lr_scheduler: Any

    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse what may not be resumed: DeepSpeed's engine exists now, and loads it next."""
        scheduler = super().create_scheduler(*args, **kwargs)
        if self.is_deepspeed_enabled and self.ftplug.resumes is not None:
            model = unwrap_model(cast("nn.Module", self.model))
            with together("resuming"):
                read_checkpoint(model, self.ftplug.resumes)
            self.ftplug.loading.enter_context(base_not_missed(model))
        return scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Gather what is saved where it is sharded: the Trainer gathers the base too, or nothing.

        All processes must call.
        """
        # A script may call this on the main process alone; while a checkpoint is saved all do.
        with nullcontext() if self.ftplug.stage is None else together("saving a checkpoint"):
            if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):
                super().save_model(output_dir, _internal_call)
                return
            run = self.ftplug
            with made_together(run.model) if run.stage is None else nullcontext():
                self._save(output_dir, gathered_tensors(run.model, run.attached.plan))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write whole tensors: any number of processes, and a schedule, can go on from them."""
        with together("saving the optimizer's state"):
            if not self.is_fsdp_enabled:
                with without_base(self):
                    super()._save_optimizer_and_scheduler(output_dir)
                return
            state = optimizer_state(self.optimizer)
            if self.args.should_save:
                torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Read them back."""
        self.ftplug.loading.close()
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
        model = unwrap_model(cast("nn.Module", self.model))
        directory = Path(output_dir or self.args.output_dir or ".")
        tokenizer = self.processing_class or getattr(
            getattr(self, "data_collator", None), "tokenizer", None
        )
        if self.ftplug.stage is None:
            training = record.training_facts(self, self.ftplug.measured)
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
