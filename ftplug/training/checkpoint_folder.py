"""A checkpoint on its way: written aside by all processes, then given its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from ftplug.artifacts.checkpoint import STATE, seal
from ftplug.files.staged import STAGE, close_stage, open_stage, stated
from ftplug.files.swapping import replace_directory
from ftplug.training.processes import together

if TYPE_CHECKING:
    from ftplug.training.binding import FTPlugCallback


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
