"""Another number of processes than wrote a checkpoint: what stays equal, and what is refused.

Weights and the optimizer's state are whole tensors, which any number of processes can go on from.
As long as the global batch is the same, so are the examples of each step. Random numbers are drawn
by each process for itself: they begin anew, from the seed and the step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import set_seed

from ftplug.artifacts.json_values import read_object
from ftplug.errors import ArtifactError, MethodError

FILE = "ftplug_batch.json"


class Division(NamedTuple):
    """How a run divides its steps: ``global_batch`` examples each, among ``processes``.

    Each process takes ``batches`` of ``per_process`` examples a step.
    """

    processes: int
    per_process: int
    batches: int

    @property
    def global_batch(self) -> int:
        """The examples of an optimizer step."""
        return self.processes * self.per_process * self.batches

    def __str__(self) -> str:
        return f"{self.global_batch} ({self.processes} x {self.per_process} x {self.batches})"

    @classmethod
    def of(cls, trainer: Any) -> Division:
        """Return a Trainer's."""
        args, size = trainer.args, trainer._train_batch_size
        if args.accelerator_config.split_batches:  # the batch is what all processes take
            size //= args.world_size
        return cls(args.world_size, size, args.gradient_accumulation_steps)

    def write(self, directory: Path) -> None:
        """Write the file of a checkpoint."""
        (directory / FILE).write_text(json.dumps(self._asdict()) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, directory: Path) -> Division | None:
        """Read it back; None where ftplug wrote none yet."""
        if not (path := directory / FILE).is_file():
            return None
        stored = read_object(path)
        try:
            return cls(*(int(stored[name]) for name in cls._fields))
        except (KeyError, TypeError, ValueError):
            raise ArtifactError(f"{path}: no division of a batch among processes") from None


def check_division(trainer: Any, checkpoint: Path, *, allow_batch_change: bool) -> None:
    """Refuse to resume what this number of processes, or this global batch, does not go on from."""
    then, now = Division.read(checkpoint), Division.of(trainer)
    if then is None:
        return
    if trainer.is_deepspeed_enabled and then.processes != now.processes:
        raise MethodError(
            f"{checkpoint} was written by {then.processes} processes, of which each has a part of "
            f"DeepSpeed's optimizer, and here are {now.processes}: resume with {then.processes}, "
            "or train with DDP or FSDP2 (fsdp=True)"
        )
    changes = then.global_batch != now.global_batch and not trainer.args.auto_find_batch_size
    if changes and not allow_batch_change:
        raise MethodError(
            f"{checkpoint} was trained with a global batch of {then} (processes x "
            f"per_device_train_batch_size x gradient_accumulation_steps), and this run has {now}: "
            "choose them so that the product stays, or allow another one (ftplug run "
            "--allow-batch-change; allow_batch_change=True)"
        )


def divided_otherwise(trainer: Any, checkpoint: str | None) -> str:
    """Return in words that the batches of a resumed run are not its processes' own; else ''."""
    then = checkpoint and Division.read(Path(checkpoint))
    if not then or then == (now := Division.of(trainer)):
        return ""
    return f"the global batch was {then}, and is {now} now"


def restart_random_numbers(trainer: Any, checkpoint: str | None) -> bool:
    """Seed this process by the seed and the step, if a checkpoint of other processes is resumed."""
    then = checkpoint and Division.read(Path(checkpoint))
    if not then or then.processes == trainer.args.world_size:
        return False
    set_seed(trainer.args.seed + trainer.state.global_step)
    return True
