"""Runs a script up to its first ``train()``, looks at that run, and stops."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ftplug.advising.report import Report, look_at
from ftplug.errors import FtplugError
from ftplug.frames import trainer_in_construction
from ftplug.training.running import alone
from ftplug.training.running.reporting import write_report
from ftplug.training.script import Launch

if TYPE_CHECKING:
    from transformers import Trainer


@dataclass
class Advising(Launch):
    """A launch that ends where training would begin."""

    seconds: float = 20.0
    found: list[Report] = field(default_factory=list)

    reaches_children: ClassVar[bool] = False  # they would train

    def advise(self, command: Sequence[str], *, module: bool = False) -> str:
        """Run the script up to its first ``train()``; return what there is to say.

        Raises FtplugError where it is started as several processes or trains nothing.
        """
        if alone.number(os.environ, "WORLD_SIZE") > 1:
            raise FtplugError("advise looks at one process: start it without a launcher")
        report, self.report = self.report, None
        target = report.resolve() if report else None
        try:
            self.run(command, module=module)
        except SystemExit as done:
            if done.code:
                raise
        if not self.found:
            raise FtplugError(f"{command[0]} never called train(): there is nothing to advise on")
        if target:
            write_report(target, self.found[0].content(command))
        return str(self.found[0])

    def callbacks_of_a_trainer(self) -> list[TrainerCallback]:
        """Return what looks at the run, behind what puts the methods on it."""
        methods = super().callbacks_of_a_trainer() if self.methods else []
        return [*methods, Looking(self)]


class Looking(TrainerCallback):
    """Looks at a Trainer whose training begins, and ends the script."""

    def __init__(self, launch: Advising) -> None:
        self.launch = launch
        self.trainer: Trainer | None = None
        launch.trainers += 1

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the Trainer, which events do not name."""
        self.trainer = trainer_in_construction(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look, and exit with 0."""
        assert self.trainer is not None
        loader = kwargs["train_dataloader"]
        self.launch.found.append(look_at(self.trainer, loader, self.launch.seconds))
        raise SystemExit(0)
