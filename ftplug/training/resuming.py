"""Resuming: from the last complete checkpoint, in a folder that no other run writes into."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import SaveStrategy, get_last_checkpoint

from ftplug.artifacts.checkpoint import resumable
from ftplug.attaching.sharding import partners_awaited
from ftplug.files.folder_lock import claimed
from ftplug.files.staged import STAGE, finish_interrupted, remove_abandoned
from ftplug.files.write_errors import stated_write_errors
from ftplug.training import batches
from ftplug.training.processes import keep_timeout, together
from ftplug.training.restarting import another_number

if TYPE_CHECKING:
    from ftplug.training.run import Run


class ResumeMixin:
    """How a bound Trainer begins, and begins again."""

    ftplug: Run
    args: TrainingArguments
    state: TrainerState
    control: TrainerControl

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does, on a checkpoint that is complete and in a folder of its own.

        ``resume_from_checkpoint=True`` takes the last complete checkpoint, with a warning where
        that is not the last one; a path to a damaged one is refused, naming the complete one.
        Where it says nothing, ``ftplug run --resume auto`` does.
        """
        given = dict(zip(("resume_from_checkpoint", "trial"), args, strict=False)) | kwargs
        asked = given.get("resume_from_checkpoint")
        keep_timeout(self.args)
        self.ftplug.resumes = None
        if checkpoint := self._chosen(asked, given.get("trial")):
            self._may_go_on(checkpoint)
            if args:
                args = (checkpoint, *args[1:])
            else:
                kwargs["resume_from_checkpoint"] = checkpoint
        with partners_awaited(), ExitStack() as stack:
            self.ftplug.trains = True
            stack.callback(setattr, self.ftplug, "trains", False)
            with together("claiming the output folder"):
                stack.enter_context(self._claim(given.get("trial")))
            if self.ftplug.restarts.preemptible:
                without_jit_checkpoint(self)
                stack.enter_context(self.ftplug.preemption.watching())
            done = super().train(*args, **kwargs)  # type: ignore[misc]
            if number := self._preempted():
                self.ftplug.preemption.end(number, say=self.args.process_index == 0)
            return done

    def _may_go_on(self, checkpoint: Any) -> None:
        """Note what is resumed, unless this run's processes cannot go on from it."""
        self.ftplug.resumes = path = Path(checkpoint) if isinstance(checkpoint, str) else None
        allowed = self.ftplug.restarts.allow_batch_change
        with together("resuming"):
            if path is not None:
                another_number.check_division(self, path, allow_batch_change=allowed)

    def _preempted(self) -> int:
        """Return the signal that ends this run in all processes, which all must ask; 0 for none."""
        run = self.ftplug
        return run.preemption.agreed(self.args.device) if run.restarts.preemptible else 0

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """After a step: where a signal has come, see that its checkpoint is written, and end."""
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        if not (number := self._preempted()):
            return
        if self.ftplug.preemption.saved != self.state.global_step:
            self.control.should_log = self.control.should_evaluate = False
            self.control.should_save = True
            super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        self.ftplug.preemption.end(number, say=self.args.process_index == 0)

    def _chosen(self, asked: Any, trial: Any) -> Any:
        """Return the checkpoint that the script asks for, or else the command line."""
        output_dir, restarts = Path(self.args.output_dir or "."), self.ftplug.restarts
        if asked:
            with together("looking for the checkpoint"):
                found = _checkpoint(asked, output_dir)
        elif restarts.resume and trial is None:
            found = restarts.last_whole(output_dir)
            if self.args.process_index == 0:
                goes_on = f"goes on from {found}" if found else f"none in {output_dir}: starts anew"
                print(f"ftplug: --resume auto: {goes_on}", file=sys.stderr)
            found = found and str(found)
        else:
            return None
        restarts.trained.add(output_dir.resolve())
        return found

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Watch what its batches draw; take no step beyond the last, when a done run is resumed."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        own = inspect.signature(super()._run_epoch)  # type: ignore[misc]
        given = own.bind(*args, **kwargs).arguments
        checkpoint, skipped = given["resume_from_checkpoint"], 0
        if given["epoch"] == given["epochs_trained"] and not self.args.ignore_data_skip:
            skipped = given["steps_trained_in_current_epoch"]
        moment = Path(checkpoint, self._batches_file()) if checkpoint else None
        inexact = another_number.divided_otherwise(self, checkpoint)
        with self.ftplug.batches.watching(given["train_dataloader"], moment, skipped, inexact):
            super()._run_epoch(*args, **kwargs)  # type: ignore[misc]

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        """Fetch the batches of a step; where a run was resumed, they draw what they would have."""
        with self.ftplug.batches.fetching(epoch_iterator, self.state.global_step):
            return super().get_batch_samples(epoch_iterator, *args, **kwargs)  # type: ignore[misc]

    def _save_rng_state(self, output_dir: str) -> None:
        """Write beside the generators' states what the batches of a resumed run have to draw."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        self.ftplug.batches.write(Path(output_dir, self._batches_file()), self.state.global_step)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Restore the generators' states, but not over what the resumed batches have drawn."""
        with self.ftplug.batches.restoring():
            if another_number.restart_random_numbers(self, checkpoint):
                return
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    def _batches_file(self) -> str:
        return batches.FILE.format(self.args.process_index)

    @contextmanager
    def _claim(self, trial: Any) -> Iterator[None]:
        """Claim the output folder, where checkpoints are written straight into it, and clear it."""
        asked = self.args.enable_jit_checkpoint or self.ftplug.restarts.preemptible
        saves = asked or self.args.save_strategy != SaveStrategy.NO
        if not (saves and self.args.should_save) or trial is not None:
            yield
            return
        output_dir = Path(self.args.output_dir or ".")
        with ExitStack() as within:
            with stated_write_errors(output_dir):
                within.enter_context(claimed(output_dir))
                remove_abandoned(output_dir, STAGE)
                finish_interrupted(output_dir)
            yield


def _checkpoint(asked: Any, output_dir: Path) -> Any:
    if asked is True:
        newest = get_last_checkpoint(output_dir) if os.path.isdir(output_dir) else None
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


def save_at_any_moment(trainer: Any) -> None:
    """Take that back: transformers' own checkpoint on SIGTERM."""
    for callback in trainer.callback_handler.callbacks:
        if type(callback) is BetweenSteps:
            object.__setattr__(callback, "__class__", JITCheckpointCallback)


def without_jit_checkpoint(trainer: Any) -> None:
    """Put transformers' handler of SIGTERM, and its checkpoint, aside for ours."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, JITCheckpointCallback) and callback.jit_manager:
            if (before := callback.jit_manager._original_sigterm_handler) is not None:
                signal.signal(signal.SIGTERM, before)
            callback.jit_manager = None
