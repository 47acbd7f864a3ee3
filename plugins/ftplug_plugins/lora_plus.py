"""LoRA+: a larger learning rate for B than for A (https://arxiv.org/abs/2402.12354)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt

from ftplug import Method, MethodError, hookimpl
from ftplug.structure import gathered
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.shared.optimizer_groups import trainer_optimizer

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments


@dataclass(frozen=True, eq=False)
class LoraPlus(Method):
    """Train LoRA's B with ``loraplus_lr_ratio`` times the learning rate of A; goes beside lora.

    The groups are peft's: biases and other vectors learn as fast as B, the head as slowly as A. The
    optimizer, its settings and the weight decay are the Trainer's.
    """

    loraplus_lr_ratio: Annotated[float, Ge(1), "Learning rate of B by that of A."] = 16.0
    loraplus_lr_embedding: Annotated[float, Gt(0), "Learning rate of LoRA on embeddings."] = 1e-6

    name: ClassVar[str] = "lora-plus"
    kind: ClassVar = "optimizer"
    paper: ClassVar[str] = "https://arxiv.org/abs/2402.12354"
    citation: ClassVar[str] = """
        @inproceedings{hayou2024lora,
          title     = {{LoRA+}: Efficient Low Rank Adaptation of Large Models},
          author    = {Hayou, Soufiane and Ghosh, Nikhil and Yu, Bin},
          booktitle = {International Conference on Machine Learning},
          year      = {2024}
        }
    """

    @hookimpl
    def select_trainable(self, model: nn.Module) -> list[str]:
        """Select nothing; refuse a run in which nothing is a B."""
        if not any(
            ".lora_B." in name or ".lora_embedding_B." in name
            for name, _ in model.named_parameters()
        ):
            raise MethodError(
                "lora-plus: there is no LoRA to train: name lora (or qlora) beside it, "
                "e.g. attach(trainer, 'lora', 'lora-plus')"
            )
        return []

    @hookimpl
    def build_optimizer(self, model: nn.Module, args: TrainingArguments) -> torch.optim.Optimizer:
        """Build the Trainer's optimizer over peft's groups of what requires gradients."""
        from peft.optimizers import create_loraplus_optimizer

        cls, options = trainer_optimizer(self.name, model, args)
        peft_model: Any = model  # it reads names and modules alone: any model will do
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with gathered(*trained):  # it goes by their number of dimensions
            optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
                peft_model,
                cls,
                loraplus_lr_ratio=self.loraplus_lr_ratio,
                loraplus_lr_embedding=self.loraplus_lr_embedding,
                loraplus_weight_decay=args.weight_decay,
                **options,
            )
        versions.group_embeddings(optimizer, model)
        return optimizer
