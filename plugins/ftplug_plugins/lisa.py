"""LISA: train a few layers at a time, drawn anew each period (https://arxiv.org/abs/2403.17919)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.structure import require_layer_stacks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class Lisa(Method):
    """Train embeddings and head always, and ``layers`` of the layers drawn every ``period`` steps.

    Layers are drawn uniformly without replacement from the run's seed and the number of the period,
    so that a resumed run draws what the uninterrupted one drew. The optimizer's state of a layer
    that goes inactive is dropped: memory holds gradients and state of the active ones alone. What
    lies outside of the layers (embeddings, final norm, pooler, head) always trains.
    """

    layers: Annotated[int, Ge(1), "How many layers train at a time (the paper's gamma)."] = 2
    period: Annotated[int, Ge(1), "Optimizer steps until layers are drawn again (its K)."] = 20

    name: ClassVar[str] = "lisa"
    kind: ClassVar = "schedule"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.17919"
    citation: ClassVar[str] = """
        @inproceedings{pan2024lisa,
          title     = {{LISA}: Layerwise Importance Sampling for Memory-Efficient Large Language
                       Model Fine-Tuning},
          author    = {Pan, Rui and Liu, Xiang and Diao, Shizhe and Pi, Renjie and Zhang, Jipeng
                       and Han, Chi and Zhang, Tong},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2024}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-6, 5e-5, 3e-4)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select every parameter: any layer may be drawn."""
        depth = len(self._layers(model))
        if self.layers > depth:
            raise MethodError(
                f"lisa: layers={self.layers}, but {type(model).__name__} has {depth}: draw fewer"
            )
        return [name for name, _ in model.named_parameters()]

    @hookimpl
    def schedule_trainable(self, model: nn.Module, step: int, run: RunView) -> Iterable[str]:
        """Return what lies outside of the layers, and the layers drawn for this period."""
        layers = self._layers(model)
        draw = random.Random(f"{run.seed}/{step // self.period}")  # a text: hashed alike everywhere
        idle = tuple(set(layers) - set(draw.sample(layers, self.layers)))
        return [name for name, _ in model.named_parameters() if not name.startswith(idle)]

    @hookimpl
    def on_step(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, run: RunView
    ) -> None:
        """Drop the state of what no method trains in the next step."""
        if step % self.period:
            return
        active = run.trains_in(step)  # steps count from 0 there: the next one
        for name, parameter in model.named_parameters():
            if name not in active:
                optimizer.state.pop(parameter, None)

    def _layers(self, model: nn.Module) -> list[str]:
        """Return the names of all layers, with a dot: encoder and decoder draw from one pool."""
        return [
            f"{name}."
            for stack in require_layer_stacks(model, self.name)
            for name, _ in stack.top(len(stack.layers))
        ]
