"""Layer-wise learning rates: the lower a layer, the smaller its steps, as in ULMFiT.

Discriminative fine-tuning of Howard and Ruder 2018, https://arxiv.org/abs/1801.06146; for BERT with
the decay used here by default Sun et al. 2019, https://arxiv.org/abs/1905.05583.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Gt, Le

from ftplug import LearningRate, Method, hookimpl
from ftplug_plugins.shared.depth import ULMFIT, from_the_top
from ftplug_plugins.shared.optimizer_groups import trainer_optimizer, weight_decay

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments


@dataclass(frozen=True, eq=False)
class LayerwiseLr(Method):
    """Give each layer ``decay`` times the learning rate of the layer above it.

    The head has the run's own rate, the top layer ``decay`` times that, the embeddings the lowest:
    ``decay ** (layers + 1)`` times. The optimizer, its settings and the weight decay are the
    Trainer's. Alone it fine-tunes the whole model; beside another method, what that one trains.
    """

    decay: Annotated[
        float, Gt(0), Le(1), "Learning rate of a layer by that of the layer above; ULMFiT: 0.385."
    ] = 0.95

    name: ClassVar[str] = "layerwise-lr"
    kind: ClassVar = "optimizer"
    paper: ClassVar[str] = "https://arxiv.org/abs/1801.06146"
    citation: ClassVar[str] = ULMFIT
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-6, 5e-5, 3e-4)

    @hookimpl
    def prepare_model(self, model: nn.Module) -> None:
        """Refuse a model without layers before anything is trained."""
        from_the_top(model, self.name)

    @hookimpl
    def build_optimizer(
        self,
        model: nn.Module,
        args: TrainingArguments,
        named_parameters: Mapping[str, nn.Parameter],
    ) -> torch.optim.Optimizer:
        """Build the Trainer's optimizer over one group per depth and weight decay."""
        cls, options = trainer_optimizer(self.name, model, args)
        decays = weight_decay(model, args)
        groups: dict[tuple[int, float], list[nn.Parameter]] = defaultdict(list)
        for depth, names in enumerate(from_the_top(model, self.name)):
            for name in names:
                if name in named_parameters:
                    groups[depth, decays[name]].append(named_parameters[name])
        return cls(
            [
                {
                    "params": parameters,
                    "lr": args.learning_rate * self.decay**depth,
                    "weight_decay": decay,
                }
                for (depth, decay), parameters in groups.items()
            ],
            **options,
        )
