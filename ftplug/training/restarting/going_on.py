"""``ftplug run --resume auto``: an unmodified script goes on from its last whole checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from accelerate.utils import gather_object

from ftplug.artifacts.checkpoint import check_complete, step_of
from ftplug.context import logger
from ftplug.errors import ArtifactError, MethodError
from ftplug.training.processes import together

NONE = -1  # in place of a step: no checkpoint


@dataclass
class Restarts:
    """What the command line says of a run that may be started again.

    ``trained`` holds the output folders in which a training of this process has begun.
    """

    resume: Literal["auto"] | None = None
    preemptible: bool = False
    allow_batch_change: bool = False
    trained: set[Path] = field(default_factory=set)

    def options(self) -> dict[str, Any]:
        """Return what is told to the processes that the script starts, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "trained"}

    def last_whole(self, output_dir: Path) -> Path | None:
        """Return what a ``train()`` that names no checkpoint goes on from; None: it starts anew.

        All processes must call, and get the same one. Raises MethodError where a training before
        this one wrote into the same folder: nothing says whose a checkpoint is.
        """
        if output_dir.resolve() in self.trained:
            raise MethodError(
                f"--resume auto: the script trains twice into {output_dir}, and nothing says which "
                "training a checkpoint belongs to: give each an output_dir of its own, or say "
                "resume_from_checkpoint in the script"
            )
        return last_whole_of_all(output_dir)


def last_whole_of_all(output_dir: Path) -> Path | None:
    """Return the newest checkpoint that is whole for every process; None where nobody has one.

    Where nodes share no disk, a kill may have come between their renames: the older one counts.
    """
    newest: float = math.inf
    while True:
        with together("looking for the last whole checkpoint"):
            found = _last_whole(output_dir, newest)
        steps = gather_object([step_of(found) if found else NONE])
        if len(set(steps)) == 1:
            return found
        if NONE in steps:
            sees, lacks = steps.index(max(steps)), steps.index(NONE)
            raise ArtifactError(
                f"--resume auto: process {sees} sees checkpoint-{max(steps)} in {output_dir}, and "
                f"process {lacks} sees none there that is whole: give all one folder that they "
                "share, or save_on_each_node=True"
            )
        newest = min(steps)


def _last_whole(output_dir: Path, newest: float = math.inf) -> Path | None:
    """Return the last whole checkpoint of at most ``newest`` steps, with a warning of others."""
    found = {step_of(path): path for path in output_dir.glob("checkpoint-*")}
    for step in sorted((step for step in found if 0 <= step <= newest), reverse=True):
        try:
            check_complete(found[step])
            return found[step]
        except ArtifactError as error:
            logger.warning("--resume auto passes over %s", error)
    return None
