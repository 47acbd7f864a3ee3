"""The result of a demo run, and the table that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug.method import settings_to_show

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Epoch:
    """One epoch's mean training loss and accuracy on the validation part."""

    epoch: int
    train_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Prediction:
    """The reloaded artifact's answer to one sentence."""

    text: str
    label: str
    probability: float


@dataclass(frozen=True)
class DemoResult:
    """All figures of a run, as JSON values; accuracies are held-out ones unless named otherwise.

    ``seconds`` is the time in ``train()``, validation included. ``peak_memory_bytes`` is what was
    allocated on the GPU, or the whole process's peak resident size on the CPU.
    ``published`` is repository and commit on a Hub of this machine that ended with the demo.
    ``reloaded_agree`` counts held-out rows on which the reloaded artifact answers as the trained
    model did; ``reloaded_logit_difference`` is the largest absolute difference of a logit.
    """

    method: str
    settings: dict[str, Any]
    base: str | None
    learning_rate: float
    batch_size: int
    max_length: int
    seed: int
    train_rows: int
    validation_rows: int
    test_rows: int
    majority_accuracy: float
    accuracy_before: float
    accuracy: float
    f1: float
    validation_accuracy: float
    best_epoch: int
    epochs_asked: int
    epochs: tuple[Epoch, ...]
    trained_parameters: int
    total_parameters: int
    trained_share: float
    seconds: float
    hardware: str
    peak_memory_bytes: int
    artifact: str
    artifact_bytes: int
    weights_bytes: int
    published: str
    published_files: int
    published_bytes: int
    push_seconds: float
    pull_seconds: float
    reloaded_agree: int
    reloaded_logit_difference: float
    predictions: tuple[Prediction, ...]


def print_report(result: DemoResult, console: Console | None = None) -> None:
    """Print the figures as one table, then the artifact's answers; plain off a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    table = Table(show_header=False, box=box.SIMPLE if console.is_terminal else None)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(result):
        table.add_row(Text(name), Text(value))
    console.print(Text("ftplug demo: review sentences, positive or negative", style="bold"))
    console.print(table)
    console.print(Text("\nWhat was pulled, loaded onto a fresh base, says:"))
    for prediction in result.predictions:
        answer = f"  {prediction.label} {prediction.probability:.2f}  {prediction.text}"
        console.print(Text(answer, style="green" if prediction.label == "positive" else "red"))


def _rows(result: DemoResult) -> Iterator[tuple[str, str]]:
    error = math.sqrt(result.accuracy * (1 - result.accuracy) / result.test_rows)
    history = ", ".join(f"{epoch.validation_accuracy:.3f}" for epoch in result.epochs)
    stopped = " (stopped early)" if len(result.epochs) < result.epochs_asked else ""
    rows = (result.train_rows, result.validation_rows, result.test_rows)
    memory = "GPU memory" if "CPU" not in result.hardware else "resident memory of the process"
    trained = f"{result.trained_parameters:,} of {result.total_parameters:,}"
    other = result.artifact_bytes - result.weights_bytes
    settings = ", ".join(
        f"{name}={value}" for name, value in settings_to_show(result.settings).items()
    )
    yield "Method", f"{result.method} ({settings})" if settings else result.method
    yield "Base model", result.base or "built from a config"
    yield "Sentences", "{:,} to train, {:,} to validate, {:,} held out".format(*rows)
    yield "Majority class", f"{result.majority_accuracy:.3f} accuracy, held out"
    yield "Before training", f"{result.accuracy_before:.3f}"
    yield "After training", f"{result.accuracy:.3f} ± {error:.3f} (F1 {result.f1:.3f})"
    yield "Validation by epoch", f"{history}{stopped}; epoch {result.best_epoch} kept"
    yield "Learning rate", f"{result.learning_rate:g}, batches of {result.batch_size}"
    yield "Trained parameters", f"{trained} ({result.trained_share:.2%})"
    yield "Training time", f"{result.seconds:.1f} s on {result.hardware}"
    yield "Peak memory", f"{result.peak_memory_bytes / 2**20:,.0f} MiB, {memory}"
    yield (
        "Artifact on disk",
        f"{result.artifact_bytes:,} bytes: {result.weights_bytes:,} weights, "
        f"{other:,} tokenizer, manifest and card",
    )
    yield "Artifact", result.artifact
    yield (
        "Published",
        f"{result.published_files} files, {result.published_bytes:,} bytes to a Hub on this "
        f"machine in {result.push_seconds:.2f} s; pulled back and verified in "
        f"{result.pull_seconds:.2f} s",
    )
    yield (
        "Loaded back",
        f"answers {result.reloaded_agree} of {result.test_rows} held-out sentences as the trained "
        f"model (largest logit difference {result.reloaded_logit_difference:.2g})",
    )
