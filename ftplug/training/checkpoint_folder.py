"""The folders of checkpoints: written aside by all processes, renamed when complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from transformers.trainer_utils import sort_checkpoints

from ftplug.artifacts.checkpoint import STATE, TRAINER_STATE, seal, step_of
from ftplug.files.staged import STAGE, close_stage, open_stage, stated_write_errors
from ftplug.files.swapping import replace_directory
from ftplug.training.processes import together

if TYPE_CHECKING:
    from ftplug.training.run import Run


def lacks_state(trainer: Any, directory: Path) -> bool:
    """Whether the checkpoint's writer has not written our files; where sharded, all must know."""
    lacks = trainer.args.should_save and not (directory / STATE).is_file()
    return bool(broadcast_object_list([lacks])[0]) if trainer.is_fsdp_enabled else lacks


def give_final_name(trainer: Any, stage: Path, final: Path) -> None:
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
def staging(trainer: Any, run_dir: Path) -> Iterator[Path]:
    """Redirect the Trainer's checkpoint into a folder aside, the same one on every process.

    Its name is the first process's own: another run in the same folder has another.
    """
    run: Run = trainer.ftplug
    with stated_write_errors(run_dir):
        name = None
        with together(f"writing to {run_dir}"):
            if trainer.args.process_index == 0:
                run_dir.mkdir(parents=True, exist_ok=True)
                name = open_stage(run_dir, STAGE).name
        stage = run_dir / str(broadcast_object_list([name])[0])
        with together(f"writing to {run_dir}"):
            if trainer.args.should_save:
                stage.mkdir(parents=True, exist_ok=True)
                run.staged_at = stage.stat().st_mtime
        run.stage = stage
        try:
            yield stage
        finally:
            run.stage = None
            if trainer.args.local_process_index == 0:
                close_stage(stage)
        trainer.accelerator.wait_for_everyone()


def move_old_checkpoints(
    run_dir: Path, grave: Path, limit: int | None, best: str | None, newest: Path
) -> None:
    """Move the oldest checkpoints beyond ``limit`` into ``grave``, which is deleted later.

    The newest and the best one stay. Deleting a checkpoint in place, as the Trainer does, would let
    a crash leave half of one, which would even count as the most recent. A folder without the
    Trainer's state, which is written last, is no checkpoint and goes first. Names without a number
    (``checkpoint-best``) are somebody's own.
    """
    if limit is None or limit <= 0:
        return
    kept = {newest.resolve(), *([Path(best).resolve()] if best else [])}
    folders = [Path(path) for path in sort_checkpoints(str(run_dir), use_mtime=True)]
    folders = [path for path in folders if step_of(path) >= 0]
    folders.sort(key=lambda path: (path / TRAINER_STATE).is_file())  # stable: oldest first
    surplus = len(folders) - max(limit, len(kept))
    for checkpoint in [path for path in folders if path.resolve() not in kept][: max(surplus, 0)]:
        checkpoint.rename(grave / f"{checkpoint.name}-old")
