"""The method around a low-rank AdamW: the hook that GaLore and APOLLO share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftplug import Method, hookimpl

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ftplug_plugins.shared.low_rank_adamw import LowRankAdamW


@dataclass(frozen=True, eq=False)
class LowRankMethod(Method, ABC):
    """Base of the methods whose settings are the options of a :class:`LowRankAdamW`."""

    kind: ClassVar = "optimizer"

    @abstractmethod
    def optimizer_class(self) -> type[LowRankAdamW]:
        """Return the optimizer, which imports torch: for use within the hook."""

    @hookimpl
    def build_optimizer(
        self,
        model: nn.Module,
        args: TrainingArguments,
        named_parameters: Mapping[str, nn.Parameter],
    ) -> torch.optim.Optimizer:
        """Build it with the Trainer's rate, betas, weight decay and seed."""
        from ftplug_plugins.shared.low_rank_adamw import build

        cls = self.optimizer_class()
        return build(cls, self.name, model, args, named_parameters, **self.settings())
