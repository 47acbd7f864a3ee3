"""A model's parameters in groups by their distance from the output, for depth-wise methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.structure import pooler, require_layer_stacks, task_head

if TYPE_CHECKING:
    from torch import nn

# Where gradual unfreezing and layer-wise learning rates come from.
ULMFIT = """
    @inproceedings{howard2018universal,
      title     = {Universal Language Model Fine-tuning for Text Classification},
      author    = {Howard, Jeremy and Ruder, Sebastian},
      booktitle = {Proceedings of the 56th Annual Meeting of the Association for
                   Computational Linguistics},
      year      = {2018}
    }
"""


def from_the_top(model: nn.Module, method: str) -> list[list[str]]:
    """Return the names of all parameters in groups, the one nearest the output first.

    The head with what else lies above the layers (pooler, final norm); then one group per layer,
    the top one first; last the embeddings with what else lies below, an output head tied to them
    included. An encoder and its decoder are counted from their own tops, side by side. A pooler
    without a head goes with the top layer: what reads the encoder may not use it. For BERT-base
    with a head that makes 14 groups.
    """
    stacks = require_layer_stacks(model, method)
    deepest = max(len(stack.layers) for stack in stacks)
    layers: list[list[str]] = [[] for _ in range(deepest)]
    above: list[str] = []
    below: list[str] = []
    depths = {
        f"{name}.": depth
        for stack in stacks
        for depth, (name, _) in enumerate(reversed(list(stack.top(deepest))))
    }
    top = {*task_head(model), *pooler(model)}
    embedded = _embeddings(model)
    reached = False
    for name, _ in model.named_parameters():
        prefix = next((prefix for prefix in depths if name.startswith(prefix)), None)
        reached = reached or prefix is not None
        if prefix is not None:
            layers[depths[prefix]].append(name)
        elif name in top or "final" in name or (reached and name not in embedded):
            above.append(name)
        else:
            below.append(name)
    if set(above) <= set(pooler(model)):
        layers[0], above = above + layers[0], []
    return [group for group in (above, *layers, below) if group]


def _embeddings(model: nn.Module) -> set[str]:
    """Return the parameters of embeddings, wherever the model registers them."""
    from torch import nn

    tables = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        for name, _ in module.named_parameters()
    }
    return tables | {name for name, _ in model.named_parameters() if "embed" in name}
