"""Resuming: from the last complete checkpoint, in a folder that no other run writes into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import SaveStrategy, get_last_checkpoint

from ftplug.artifacts.checkpoint import resumable
from ftplug.files.folder_lock import claimed
from ftplug.files.staged import STAGE, remove_abandoned
from ftplug.training.processes import together


class ResumeMixin:
    """How a bound Trainer begins, and begins again."""

    args: TrainingArguments
    state: TrainerState
    control: TrainerControl

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, on a checkpoint that is complete and in a folder of its own.

        ``resume_from_checkpoint=True`` takes the last complete checkpoint, with a warning where
        that is not the last one; a path to a damaged one is refused, naming the complete one.
        """
        given = dict(zip(("resume_from_checkpoint", "trial"), args, strict=False)) | kwargs
        asked = given.get("resume_from_checkpoint")
        if asked and not has_own_format(self):
            with together("looking for the checkpoint"):
                checkpoint = _checkpoint(asked, Path(self.args.output_dir or "."))
            if args:
                args = (checkpoint, *args[1:])
            else:
                kwargs["resume_from_checkpoint"] = checkpoint
        with ExitStack() as stack:
            with together("claiming the output folder"):
                stack.enter_context(self._claim(given.get("trial")))
            return super().train(*args, **kwargs)  # type: ignore[misc]

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Take no step beyond the last, as the Trainer does when a run that was done is resumed."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]
        else:
            self.control.should_training_stop = True

    @contextmanager
    def _claim(self, trial: Any) -> Iterator[None]:
        """Claim the output folder, where checkpoints are written straight into it, and clear it."""
        saves = self.args.save_strategy != SaveStrategy.NO or self.args.enable_jit_checkpoint
        if not (saves and self.args.should_save) or trial is not None:
            yield
            return
        with claimed(output_dir := Path(self.args.output_dir or ".")):
            remove_abandoned(output_dir, STAGE)
            yield


def has_own_format(trainer: Any) -> bool:
    """DeepSpeed writes sharded checkpoints of its own."""
    return bool(trainer.is_deepspeed_enabled)


def _checkpoint(asked: Any, output_dir: Path) -> Any:
    if asked is True:
        newest = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
        # Where there is none at all, the Trainer says so.
        return True if newest is None else str(resumable(Path(newest), fall_back=True))
    return str(resumable(Path(asked)))


class BetweenSteps(JITCheckpointCallback):
    """transformers' checkpoint on SIGTERM, at moments from which a resumed run is bit-identical."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait for the step's end: its random numbers are drawn, but its update is not made."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Wait in the first step of an epoch: its sampler has drawn random numbers already."""
        if not float(state.epoch or 0).is_integer():
            super().on_step_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]


def save_between_steps(trainer: Any) -> None:
    """Let a Trainer with ``enable_jit_checkpoint`` save at exact moments only."""
    for callback in trainer.callback_handler.callbacks:
        if type(callback) is JITCheckpointCallback:
            callback.__class__ = BetweenSteps
