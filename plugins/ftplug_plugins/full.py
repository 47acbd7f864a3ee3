"""Full fine-tuning: every parameter trains (the recipe of BERT, https://arxiv.org/abs/1810.04805)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.plan import persistent_buffers

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Full(Method):
    """Train every parameter of the model.

    The artifact is a plain transformers checkpoint that ``from_pretrained`` reads without ftplug.
    """

    name: ClassVar[str] = "full"
    kind: ClassVar = "selection"
    paper: ClassVar[str] = "https://arxiv.org/abs/1810.04805"
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-6, 5e-5, 3e-4)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select all parameters; a quantized base has some that cannot train."""
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                raise MethodError(
                    f"full: {name} is quantized ({parameter.dtype}): use qlora or lora"
                )
        return [name for name, _ in model.named_parameters()]

    @hookimpl
    def save_artifact(
        self, model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor]
    ) -> Iterable[str]:
        """Write config and weights as ``save_pretrained`` does, renamed to the Hub's names."""
        from transformers import PreTrainedModel

        # Beside a method that adds modules this is no plain checkpoint: left to the host.
        if not isinstance(model, PreTrainedModel) or not set(tensors) <= _plain_names(model):
            return []
        # The class's own: on the instance save_pretrained already means "write the artifact".
        type(model).save_pretrained(model, directory, state_dict=dict(tensors))
        return list(tensors)

    @hookimpl
    def load_artifact(self, model: nn.Module, directory: Path) -> Mapping[str, torch.Tensor]:
        """Read the checkpoint through transformers, which knows its renamed weights."""
        if not (directory / "config.json").is_file():
            return {}
        cls = cast("type[PreTrainedModel]", type(model))
        loaded = cls.from_pretrained(directory, dtype="auto")
        return dict(loaded.named_parameters()) | dict(persistent_buffers(loaded))


def _plain_names(model: PreTrainedModel) -> set[str]:
    """Return the tensor names that the model's class has when nothing was added to it."""
    import torch

    with torch.device("meta"):
        plain = type(model)(model.config)
    return {name for name, _ in plain.named_parameters()} | set(dict(plain.named_buffers()))
