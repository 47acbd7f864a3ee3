"""Hidden states of the layers that a method edits: their width, and whether they are in rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftplug import MethodError
from ftplug.context import logger
from ftplug.structure import LayerStack, linear_layers, reads_packed_rows

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def width_of(model: nn.Module, layer: nn.Module) -> int:
    """Return the width of a layer's hidden states.

    It is the ``hidden_size`` of the model around it, if linear layers read and write as much, or
    what the first one reads: what configs call so is not always that.
    """
    linears = list(linear_layers(layer).values())
    config = _model_around(model, layer).config.get_text_config()
    width: int | None = getattr(config, "hidden_size", None)
    fits = any(read == width for read, _ in linears) and any(gives == width for _, gives in linears)
    return width if fits and width else linears[0][0]


def _model_around(model: nn.Module, layer: nn.Module) -> PreTrainedModel:
    """Return the innermost transformers model that a layer is in."""
    from transformers import PreTrainedModel

    models = [m for m in model.modules() if isinstance(m, PreTrainedModel)]
    return [m for m in models if any(part is layer for part in m.modules())][-1]


def with_rows(stacks: list[LayerStack], model: nn.Module) -> list[LayerStack]:
    """Leave out the stacks that read all rows of a batch as one: vision towers of Qwen2-VL on."""
    kept = [stack for stack in stacks if not reads_packed_rows(stack.layers[0])]
    left = [stack.name for stack in stacks if stack not in kept]
    why = "reads all rows of a batch as one, so that none has a first token: positions=all edits it"
    if not kept:
        raise MethodError(f"reft: {left[0]} {why}")
    if left and not next(model.parameters()).is_meta:
        logger.warning("reft: %s is left out: it %s", ", ".join(left), why)
    return kept


def are_stages(model: nn.Module, stack: LayerStack) -> bool:
    """Whether what looks like layers are the stages of a Swin or a ConvNeXt."""
    from torch import nn
    from transformers.modeling_layers import GradientCheckpointingLayer

    lists = [m for layer in stack.layers for m in layer.modules() if isinstance(m, nn.ModuleList)]
    nested = any(isinstance(inner, GradientCheckpointingLayer) for one in lists for inner in one)
    return nested or isinstance(
        getattr(_model_around(model, stack.layers[0]).config, "depths", None), Sequence
    )
