"""The folders of checkpoints: written aside by all processes, renamed when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer
from transformers.trainer_utils import sort_checkpoints

from ftplug.artifacts.checkpoint import STATE, TRAINER_STATE, seal, step_of
from ftplug.attaching.attachment import require_attachment
from ftplug.files.staged import STAGE, close_stage, open_stage
from ftplug.files.swapping import replace_directory
from ftplug.files.write_errors import stated_write_errors
from ftplug.training.processes import together

if TYPE_CHECKING:
    from torch import nn

    from ftplug.training.run import Run


def lacks_state(trainer: Any, directory: Path) -> bool:
    """Whether the checkpoint's writer has not written our files; where sharded, all must know."""
    lacks = trainer.args.should_save and not (directory / STATE).is_file()
    shared = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    return bool(broadcast_object_list([lacks])[0]) if shared else lacks


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


def make_output_dir(trainer: Any) -> None:
    """Make the folder that a Trainer in construction makes next; what is wrong with it is a line.

    Anything else than a Trainer is left alone.
    """
    args = getattr(trainer, "args", None)
    if isinstance(trainer, Trainer) and args is not None and args.should_save and args.output_dir:
        with stated_write_errors(Path(args.output_dir)):
            os.makedirs(args.output_dir, exist_ok=True)


@contextmanager
def without_base(trainer: Any) -> Iterator[None]:
    """Let DeepSpeed's engine write of the model what is saved: the Trainer asks it for all.

    What it leaves out itself are frozen parameters, but not under the second name of a tied one.
    """
    if not trainer.is_deepspeed_enabled:
        yield
        return
    engine, saved = trainer.model_wrapped, set(trainer.ftplug.attached.plan.saved)
    save_checkpoint, module_state_dict = engine.save_checkpoint, engine.module_state_dict

    def state_dict(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {n: t for n, t in module_state_dict(*args, **kwargs).items() if n in saved}

    engine.save_checkpoint = partial(save_checkpoint, exclude_frozen_parameters=True)
    engine.module_state_dict = state_dict
    try:
        yield
    finally:
        del engine.save_checkpoint, engine.module_state_dict


@contextmanager
def base_not_missed(model: nn.Module) -> Iterator[None]:
    """Let DeepSpeed's engine, which asks for every tensor, load such a checkpoint.

    It has what trains and the buffers; what a method added and froze is in ftplug's own file.
    """
    plan = require_attachment(model).plan
    frozen = {name for name, _ in model.named_parameters()} - set(plan.may_train)
    written = set(plan.saved) - frozen

    def not_missed(module: nn.Module, keys: Any) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name in written]

    hook = model.register_load_state_dict_post_hook(not_missed)
    try:
        yield
    finally:
        hook.remove()


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
