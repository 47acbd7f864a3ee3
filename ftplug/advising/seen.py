"""A run before its first step: its batches, its model, how long its steps take."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from ftplug import structure
from ftplug.advising.measuring import Kept, Paired, compare, seconds
from ftplug.attaching.attachment import attachment_of, unwrap_model
from ftplug.training import compat

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import nn
    from transformers import Trainer

BATCHES = 16  # that are looked at
PATIENCE = 20.0  # seconds to look at them


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch: its shape, the longest row and all rows without their padding."""

    rows: int
    width: int
    longest: int
    real: int


@dataclass(frozen=True)
class Batch:
    """What a step is given, a mapping unless the Trainer is a special one; seconds to fetch it."""

    inputs: Any
    seconds: float

    @property
    def tokens(self) -> Tokens | None:
        """What its mask of (rows, width) says; None where there is none."""
        mask = self.inputs.get("attention_mask") if isinstance(self.inputs, Mapping) else None
        if not isinstance(mask, torch.Tensor) or mask.ndim != 2 or not mask.numel():
            return None
        (rows, width), lengths = mask.shape, mask.sum(1)
        return Tokens(rows, width, int(lengths.max()), int(lengths.sum()))


class Seen:
    """What there is to see of a Trainer whose training is about to begin.

    ``limit`` is how many seconds one comparison may take.
    """

    def __init__(self, trainer: Trainer, loader: Iterable[Any], limit: float) -> None:
        self.trainer = trainer
        self.limit = limit
        self.args = trainer.args
        self.device: torch.device = trainer.args.device
        self.batches = _look_at(loader)
        if not hasattr(trainer, "current_gradient_accumulation_steps"):  # the loop's, for a step
            trainer.current_gradient_accumulation_steps = 1

    @property
    def model(self) -> Any:
        """The model, without what the Trainer wraps around it."""
        return unwrap_model(cast("nn.Module", self.trainer.model))

    @property
    def config(self) -> Any:
        """The model's config; None where a script's own model has none."""
        return getattr(self.model, "config", None)

    @cached_property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def methods(self) -> list[str]:
        """The names of ftplug's methods on the model."""
        attached = attachment_of(self.model)
        return [method.name for method in attached.host.methods] if attached else []

    @cached_property
    def layers(self) -> list[nn.Module]:
        """The transformer layers, in the order of their stacks."""
        try:
            stacks = structure.layer_stacks(self.model)
        except Exception:  # whatever a script's own model lacks of a config
            return []
        return [layer for stack in stacks for layer in stack.layers]

    @property
    def epochs(self) -> float:
        """How often an example is seen."""
        steps = self.trainer.state.max_steps
        per_epoch = self.steps_per_epoch
        return steps / per_epoch if per_epoch else float(self.args.num_train_epochs)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of an epoch; 0 where nobody knows."""
        try:
            batches = len(self.trainer.get_train_dataloader())
        except TypeError:
            return 0
        return max(batches / self.args.gradient_accumulation_steps, 1)

    # Steps.

    @cached_property
    def largest(self) -> Batch:
        """The batch with the most numbers in it."""
        return max(self.batches, key=_size)

    @cached_property
    def middle(self) -> Batch:
        """The batch of median size: what is measured with."""
        return sorted(self.batches, key=_size)[len(self.batches) // 2]

    def step(self, batch: Batch | None = None) -> None:
        """Run a batch forward and backward, as the Trainer does; then drop the gradients."""
        self.backward(batch or self.middle)
        for parameter in self.trained:
            parameter.grad = None

    def backward(self, batch: Batch) -> None:
        """Run a batch forward and backward; gradients stay."""
        self.trainer.training_step(self.trainer.model_wrapped, copy.copy(batch.inputs))

    def forward(self, batch: Batch) -> Any:
        """Return the loss of a batch, with its graph."""
        self.model.train()
        return compat.loss_of(self.trainer, copy.copy(batch.inputs))

    @cached_property
    def seconds(self) -> float:
        """How long a step of the middle batch takes, forward and backward."""
        self.step()
        return statistics.median(seconds(self.step, self.device) for _ in range(3))

    @property
    def fetching(self) -> float:
        """How long a batch takes to fetch; the first, which opens things, is left out."""
        return statistics.median(batch.seconds for batch in self.batches[1:] or self.batches)

    def compared(
        self,
        change: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> Paired:
        """Compare a step with one within a change, or two actions.

        Raises TimeoutError where a step alone takes too long.
        """
        if 2 * self.seconds > self.limit:
            raise TimeoutError(f"a step takes {self.seconds:,.1f} s: --seconds allows for more")
        before, after = before or self.step, after or self.step
        return compare(before, after, self.device, self.limit, change=change)

    # Memory.

    @cached_property
    def kept(self) -> int:
        """How many bytes the largest batch keeps for its backward."""
        return self.kept_with(checkpointing=structure.activation_checkpointing(self.model))

    def kept_with(self, *, checkpointing: bool) -> int:
        """Return the same, where the layers are (said to be) checkpointed or not."""
        kept = Kept(self.model, self.layers if checkpointing else [])
        return kept.bytes(lambda: self.forward(self.largest))


def _look_at(loader: Iterable[Any]) -> list[Batch]:
    batches: list[Batch] = []
    iterator, start = iter(loader), time.perf_counter()
    while len(batches) < BATCHES and time.perf_counter() - start < PATIENCE:
        begun = time.perf_counter()
        if (inputs := next(iterator, None)) is None:
            break
        batches.append(Batch(inputs, time.perf_counter() - begun))
    return batches


def _size(batch: Batch) -> int:
    given = batch.inputs
    values = given.values() if isinstance(given, Mapping) else given
    return sum(value.numel() for value in values if isinstance(value, torch.Tensor))
