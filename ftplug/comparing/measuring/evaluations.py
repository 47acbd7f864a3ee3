"""One evaluation of a Trainer: of which examples, with which metrics, and what they follow from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ftplug.comparing.measuring.examples import contents, digest
from ftplug.comparing.measuring.losses import example_losses
from ftplug.comparing.measuring.metrics import numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import EvalPrediction

_KEPT = 64 * 2**20  # bytes of predictions that are kept until the next evaluation of a training


@dataclass
class Evaluation:
    """One run through a data set.

    ``prefix`` is of its metrics' names as the Trainer has them. ``step`` is the optimizer step;
    ``elsewhere`` says that the data are not the Trainer's own, ``after`` that training had ended,
    ``predicts`` that it is a call of ``predict``, ``is_test`` that nothing was trained or chosen on
    these data, ``is_training`` that they are what is trained on.
    ``examples`` has a digest an example, in order, ``losses`` float64 of (rows,) a batch.
    ``prediction`` is what ``compute`` was given, unless that was too large to be kept.
    """

    prefix: str
    step: int
    epoch: float | None
    elsewhere: bool
    after: bool
    predicts: bool = False
    is_test: bool = False
    is_training: bool = False
    labels: Sequence[str] = ()
    divides_loss: bool = False
    examples: list[bytes] = field(default_factory=list)
    losses: list[torch.Tensor] = field(default_factory=list)
    prediction: EvalPrediction | None = None
    compute: Callable[..., Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    is_dropped: bool = False
    no_examples: str | None = None
    no_losses: str | None = None

    def name(self, metric: str) -> str:
        """Return a metric's name as this evaluation has it: with the prefix."""
        return f"{self.strips}_{metric}"

    @property
    def strips(self) -> str:
        """The prefix that bare names are without; of several sets the set's name stays."""
        return "eval" if self.prefix.startswith("eval_") else self.prefix

    @property
    def is_named_test(self) -> bool:
        """Whether a script treats the data as a test set: it predicts on them, or says so."""
        return self.predicts or self.prefix.startswith("test")

    def reported(self, metrics: dict[str, Any]) -> None:
        """Take what the Trainer reports of it."""
        self.metrics = numbers(metrics, self.strips)

    def sees(self, inputs: Any, rows: int | None) -> None:
        """Note the examples of a batch."""
        if not hasattr(inputs, "items") or rows is None:
            self.no_examples = "its batches are no mappings of tensors"
        if self.no_examples is None:
            self.examples += [digest(one) for one in contents(inputs, rows or 0, self.labels)]

    def divides(self, loss: Any, outputs: Any, labels: Any, rows: int | None) -> None:
        """Note each example's share of a batch's loss, where that can be told."""
        if self.no_losses is not None or not self.divides_loss:
            return
        known = None if loss is None or rows is None else float(loss)
        shares = None if known is None else example_losses(known, outputs, labels, rows or 0)
        if shares is None:
            self.no_losses = "a batch's loss could not be divided among its examples"
            self.losses.clear()
        else:
            self.losses.append(shares)

    def keep(self) -> None:
        """Drop predictions that are too large to lie about until training ends."""
        if self.prediction is not None and _size(self.prediction) > _KEPT:
            self.drop()

    def drop(self) -> None:
        """Drop the predictions."""
        self.prediction, self.is_dropped = None, self.prediction is not None


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    if hasattr(value, "label_ids"):
        return _size((value.predictions, value.label_ids, value.inputs))
    return sum(map(_size, value)) if isinstance(value, list | tuple) else 0
