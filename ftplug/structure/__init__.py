"""What a method may ask of a transformers model: its parts, and names that versions differ in."""

from __future__ import annotations

from ftplug.structure.parts import (
    TASKS,
    LayerStack,
    OutputProjections,
    backbone,
    backbone_prefix,
    is_language_model,
    layer_stacks,
    linear_layers,
    named_tensors,
    persistent_buffers,
    pooler,
    pretrained,
    require_layer_stacks,
    require_output_projections,
    task_head,
    task_of,
    weightless_copy,
)
from ftplug.structure.versions import (
    CACHE_ARGUMENTS,
    activation_checkpointing,
    bias_has_mask,
    cache_argument,
    given_cache,
    set_cache,
    without_cache,
)

__all__ = [
    "CACHE_ARGUMENTS",
    "TASKS",
    "LayerStack",
    "OutputProjections",
    "activation_checkpointing",
    "backbone",
    "backbone_prefix",
    "bias_has_mask",
    "cache_argument",
    "given_cache",
    "is_language_model",
    "layer_stacks",
    "linear_layers",
    "named_tensors",
    "persistent_buffers",
    "pooler",
    "pretrained",
    "require_layer_stacks",
    "require_output_projections",
    "set_cache",
    "task_head",
    "task_of",
    "weightless_copy",
    "without_cache",
]
