"""Gradual unfreezing: the head first, then layer by layer downwards, as in ULMFiT.

Howard and Ruder 2018, https://arxiv.org/abs/1801.06146.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Ge

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug_plugins.shared.depth import ULMFIT, from_the_top

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class GradualUnfreezing(Method):
    """Train the head alone, then add the next lower layer at a time, the embeddings last.

    The paper adds one layer per epoch; a deep model has more layers than a run has epochs, so by
    default the groups (head, each layer, embeddings) start at equal distances over the first half
    of the run, and the second half trains everything. ``every`` sets the distance instead:
    ``"epoch"`` is the paper's schedule. Gradients and optimizer state exist for what trains alone,
    so that the first steps are cheap.
    """

    every: Annotated[
        Annotated[int, Ge(1)] | Literal["epoch"] | None,
        "Optimizer steps between two groups, or epoch; None: all train by half-time.",
    ] = None

    name: ClassVar[str] = "gradual-unfreezing"
    kind: ClassVar = "schedule"
    paper: ClassVar[str] = "https://arxiv.org/abs/1801.06146"
    citation: ClassVar[str] = ULMFIT
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-6, 5e-5, 3e-4)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select every parameter: in the end all of them train."""
        return [name for group in from_the_top(model, self.name) for name in group]

    @hookimpl
    def schedule_trainable(
        self, model: nn.Module, step: int, total_steps: int, run: RunView
    ) -> Iterable[str]:
        """Return the groups that are unfrozen by now, the top one from step 0 on."""
        groups = from_the_top(model, self.name)
        waits = len(groups) - 1
        every = self._steps(run, total_steps)
        if every is not None and every * waits >= total_steps:
            raise MethodError(
                f"gradual-unfreezing: every={self.every} unfreezes the last of {len(groups)} groups"
                f" in step {every * waits}, but the run has {total_steps}: use at most "
                f"{max((total_steps - 1) // waits, 1)}, or leave every out"
            )
        count = step // every if every else 2 * waits * step // total_steps
        return [name for group in groups[: 1 + count] for name in group]

    def _steps(self, run: RunView, total_steps: int) -> int | None:
        """Return the optimizer steps between two groups."""
        if self.every != "epoch":
            return self.every
        args = run.args
        if args is None or args.max_steps > 0:
            raise MethodError(
                "gradual-unfreezing: every=epoch needs a Trainer with num_train_epochs, without "
                "max_steps: give every in steps"
            )
        return math.ceil(total_steps / args.num_train_epochs)
