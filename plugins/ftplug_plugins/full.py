"""Full fine-tuning: every parameter trains (the recipe of BERT, https://arxiv.org/abs/1810.04805)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ftplug import ArtifactError, LearningRate, Method, MethodError, hookimpl
from ftplug.context import quiet, read_tensors
from ftplug.structure import named_tensors, pretrained

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        """Read the checkpoint's weights; transformers knows how they are renamed.

        Only the weights: the model at hand says what they are of, no config that lies beside them.
        """
        import torch

        stored = _stored(directory)
        if not stored:
            return {}
        cls, config = cast("Any", type(model)), pretrained(model).config
        widest = functools.reduce(torch.promote_types, {t.dtype for t in stored.values()})
        with quiet(bars=True):  # what does not fit is said below and by the host
            loaded, report = cls.from_pretrained(
                None, config=config, state_dict=stored, dtype=widest, output_loading_info=True
            )
        if unknown := sorted(report["unexpected_keys"]):
            raise ArtifactError(
                f"{directory}: tensor {unknown[0]} belongs to nothing in this model "
                f"({len(unknown)} in all)"
            )
        # What the file lacks was drawn at random: the host names what is missing.
        absent = set(report["missing_keys"])
        return {name: t for name, t in named_tensors(loaded).items() if name not in absent}


def _stored(directory: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint as ``save_pretrained`` names its files: one or shards."""
    whole = directory / "model.safetensors"
    files = [whole] if whole.is_file() else sorted(directory.glob("model-*-of-*.safetensors"))
    stored: dict[str, torch.Tensor] = {}
    for file in files:
        tensors = read_tensors(file)
        if twice := sorted(stored.keys() & tensors.keys()):
            raise ArtifactError(f"{file}: tensor {twice[0]} is in another file of it, too")
        stored |= tensors
    return stored
