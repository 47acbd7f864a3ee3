"""Full fine-tuning: every parameter trains (the recipe of BERT, https://arxiv.org/abs/1810.04805)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.structure import named_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from ftplug.context import RunView


@dataclass(frozen=True, eq=False)
class Full(Method):
    """Train every parameter of the model.

    The artifact is a plain transformers checkpoint that ``from_pretrained`` reads without ftplug.
    """

    name: ClassVar[str] = "full"
    kind: ClassVar = "selection"
    paper: ClassVar[str] = "https://arxiv.org/abs/1810.04805"
    citation: ClassVar[str] = """
        @article{devlin2018bert,
          title   = {{BERT}: Pre-training of Deep Bidirectional Transformers for Language
                     Understanding},
          author  = {Devlin, Jacob and Chang, Ming-Wei and Lee, Kenton and Toutanova, Kristina},
          journal = {arXiv preprint arXiv:1810.04805},
          year    = {2018}
        }
    """
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
        self,
        model: nn.Module,
        directory: Path,
        tensors: Mapping[str, torch.Tensor],
        run: RunView,
    ) -> Iterable[str]:
        """Write config and weights as ``save_pretrained`` does, renamed to the Hub's names.

        Only where that is the whole model and ``from_pretrained`` can build it: not beside a method
        that adds modules, with a frozen head, or for a class of the user's own.
        """
        from transformers import PreTrainedModel

        whole = {name for name, _ in model.named_parameters()} <= set(tensors)
        if run.added or not whole or not isinstance(model, PreTrainedModel):
            return []
        if not type(model).__module__.startswith("transformers."):
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
        return named_tensors(loaded)
