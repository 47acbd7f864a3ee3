"""A progress bar for the Trainer that leaves standard output alone."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def progress_bar(*, shown: bool) -> Progress:
    """Return a bar on standard error, where it does not mix with a report or JSON."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )


class ProgressBar(TrainerCallback):
    """Moves the bar with every step and shows each epoch's validation accuracy."""

    def __init__(self, bar: Progress, title: str) -> None:
        """Take a running bar, and what to write before it."""
        self.bar, self.title = bar, title
        self.task: TaskID | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar."""
        self.task = self.bar.add_task(self.title, total=state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the bar."""
        if self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the epoch and its validation accuracy."""
        if self.task is not None:
            accuracy = kwargs["metrics"]["eval_accuracy"]
            text = f"{self.title}, epoch {state.epoch:.0f}: accuracy {accuracy:.3f}"
            self.bar.update(self.task, description=text)
