"""The loss of a batch, divided among its examples without keeping its logits.

The Trainer's loss of an evaluation is the mean over examples of the mean loss of their batch. So an
example's share of a batch of ``rows`` is ``rows`` times what it adds to that: where a batch's loss
is a mean over tokens, ``rows · (sum of its tokens' losses) / (tokens of the batch)``. The mean of
the shares over all examples is the loss that the Trainer reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-6  # of a metric that outcomes give again, times the metric where that is above 1


def agree(value: float, other: float) -> bool:
    """Whether two values of a metric are the same to 1e-6."""
    return abs(value - other) <= TOLERANCE * max(1.0, abs(other))


def example_losses(loss: float, outputs: Any, labels: Any, rows: int) -> Tensor | None:
    """Return each example's share of a batch's loss, float64 of (rows,); None if nobody knows.

    ``outputs`` are the model's, ``labels`` of (rows, …). Cross-entropy of classes, of tokens and of
    the next token is tried, then squared error and binary cross-entropy: what gives the loss again
    to 1e-6 is taken.
    """
    if rows == 1:
        return torch.tensor([loss], dtype=torch.float64)
    for shares in _candidates(outputs, labels, rows):
        if len(shares) == rows and agree(float(shares.mean()), loss):
            return shares
    return None


def _candidates(outputs: Any, labels: Any, rows: int) -> Iterator[Tensor]:
    if (known := _field(outputs, "log_probs")) is not None and known.shape[:1] == (rows,):
        counted = _field(outputs, "label_mask")  # TRL's fused head gives no logits, but these
        if counted is not None:
            yield _shares(-known.double().reshape(rows, -1).sum(1), float(counted.sum()))
    logits = _field(outputs, "logits")
    if logits is None or not isinstance(labels, Tensor) or labels.shape[:1] != (rows,):
        return
    labels = labels.to(logits.device)
    if labels.is_floating_point():
        if logits.numel() == labels.numel():
            for error in (functional.mse_loss, functional.binary_cross_entropy_with_logits):
                yield _of_numbers(error, logits, labels, rows)
    elif logits.ndim == labels.ndim + 1 and logits.shape[:-1] == labels.shape:
        if labels.ndim > 1:
            yield _of_classes(logits[:, :-1], labels[:, 1:])
        yield _of_classes(logits, labels)


def _of_numbers(error: Callable[..., Tensor], logits: Tensor, labels: Tensor, rows: int) -> Tensor:
    flat = logits.float().reshape(rows, -1), labels.float().reshape(rows, -1)
    return error(*flat, reduction="none").double().mean(1).cpu()


def _of_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the shares of a cross-entropy: example by example, since float logits are large."""
    sums = [
        functional.cross_entropy(
            given.float().reshape(-1, given.shape[-1]), true.reshape(-1), reduction="sum"
        )
        for given, true in zip(logits, labels, strict=True)
    ]
    return _shares(torch.stack(sums).double(), float((labels != -100).sum()))


def _shares(sums: Tensor, count: float) -> Tensor:
    return (sums * len(sums) / count).cpu() if count else torch.empty(0)


def _field(outputs: Any, name: str) -> Tensor | None:
    found = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
    return found if isinstance(found, Tensor) else None
