"""BitFit: train the biases alone (https://arxiv.org/abs/2106.10199)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.structure import task_head

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class BitFit(Method):
    """Train the model's biases, or those of some modules; every weight stays as pretrained.

    All biases of BERT-base are 0.09 % of it. The paper's smaller variant trains the query's and the
    intermediate layer's alone: ``modules=["query", "intermediate.dense"]``. The biases of LayerNorm
    are biases too.
    """

    modules: Annotated[
        tuple[str, ...], "Ends of module names whose biases train; empty: all biases."
    ] = ()

    name: ClassVar[str] = "bitfit"
    kind: ClassVar = "selection"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.10199"
    citation: ClassVar[str] = """
        @inproceedings{benzaken2022bitfit,
          title     = {{BitFit}: Simple Parameter-efficient Fine-tuning for Transformer-based
                       Masked Language-models},
          author    = {Ben Zaken, Elad and Goldberg, Yoav and Ravfogel, Shauli},
          booktitle = {Proceedings of the 60th Annual Meeting of the Association for
                       Computational Linguistics},
          year      = {2022}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-4, 3e-3, 1e-2)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> list[str]:
        """Select the biases below the head; Llama and T5 have none."""
        head = set(task_head(model))
        names = [name for name, _ in model.named_parameters() if name not in head]
        biases = [name for name in names if name.rpartition(".")[2] == "bias"]
        if not biases:
            raise MethodError(f"bitfit: {type(model).__name__} has no bias: use layernorm or lora")
        if not self.modules:
            return biases
        owners = {name: _owner(name) for name in biases}
        for end in self.modules:
            if not any(_ends(owner, end) for owner in owners.values()):
                raise MethodError(
                    f"bitfit: no module that ends in {end!r} has a bias; they look like "
                    f"{owners[biases[-1]]!r}"
                )
        return [n for n, owner in owners.items() if any(_ends(owner, e) for e in self.modules)]


def _owner(name: str) -> str:
    """Return the module of a bias; peft keeps the wrapped one under ``base_layer``."""
    return name.rpartition(".")[0].removesuffix(".base_layer")


def _ends(owner: str, end: str) -> bool:
    return owner == end or owner.endswith(f".{end}")
