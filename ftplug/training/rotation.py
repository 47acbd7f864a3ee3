"""Old checkpoints go: whole, and never before newer ones are complete."""

from __future__ import annotations

from pathlib import Path

from transformers.trainer_utils import sort_checkpoints

from ftplug.artifacts.checkpoint import TRAINER_STATE, step_of


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
    found = [Path(path) for path in sort_checkpoints(str(run_dir), use_mtime=True)]
    found = [path for path in found if step_of(path) >= 0]
    found.sort(key=lambda path: (path / TRAINER_STATE).is_file())  # stable: oldest first
    surplus = len(found) - max(limit, len(kept))
    for checkpoint in [path for path in found if path.resolve() not in kept][: max(surplus, 0)]:
        checkpoint.rename(grave / f"{checkpoint.name}-old")
