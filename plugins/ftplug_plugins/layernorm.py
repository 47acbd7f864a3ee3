"""LayerNorm tuning: train the normalisation layers alone (https://arxiv.org/abs/2312.11420)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftplug import LearningRate, Method, MethodError, hookimpl

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class LayerNorm(Method):
    """Train weight and bias of every LayerNorm and RMSNorm; all else stays as pretrained.

    A layer counts by its class's name, so that Llama's RMSNorm (a weight alone) and T5's are found.
    """

    name: ClassVar[str] = "layernorm"
    kind: ClassVar = "selection"
    paper: ClassVar[str] = "https://arxiv.org/abs/2312.11420"
    citation: ClassVar[str] = """
        @inproceedings{zhao2024tuning,
          title     = {Tuning {LayerNorm} in Attention: Towards Efficient Multi-Modal {LLM}
                       Finetuning},
          author    = {Zhao, Bingchen and Tu, Haoqin and Wei, Chen and Mei, Jieru and Xie, Cihang},
          booktitle = {International Conference on Learning Representations},
          year      = {2024}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-4, 3e-3, 1e-2)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select what the normalisation layers hold."""
        norms = [
            f"{path}.{name}"
            for path, module in model.named_modules()
            if type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
            for name, _ in module.named_parameters(recurse=False)
        ]
        if not norms:
            raise MethodError(
                f"layernorm: {type(model).__name__} has no LayerNorm or RMSNorm to train"
            )
        return norms
