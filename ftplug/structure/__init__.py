"""What a method may ask of a model: its parts, tensors in shards, names that versions differ in."""

from __future__ import annotations

from ftplug.structure.experts import expert_parameters, stacked_experts
from ftplug.structure.own_layers import (
    embeds_tokens,
    maps_features,
    read_past,
    reads_packed_rows,
)
from ftplug.structure.parts import (
    TASKS,
    LayerStack,
    OutputProjections,
    backbone,
    backbone_prefix,
    is_language_model,
    layer_stacks,
    linear_layers,
    named_parameters,
    named_tensors,
    persistent_buffers,
    pooler,
    pretrained,
    require_layer_stacks,
    require_output_projections,
    task_head,
    task_of,
)
from ftplug.structure.pipeline import pipeline_of, set_pipeline
from ftplug.structure.shards import gathered, numel_of, remember_values, shape_of
from ftplug.structure.versions import (
    CACHE_ARGUMENTS,
    activation_checkpointing,
    bias_has_mask,
    cache_argument,
    given_cache,
    set_cache,
    switched_activation_checkpointing,
    without_cache,
)
from ftplug.structure.weightless import weightless_copy

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
    "embeds_tokens",
    "expert_parameters",
    "gathered",
    "given_cache",
    "is_language_model",
    "layer_stacks",
    "linear_layers",
    "maps_features",
    "named_parameters",
    "named_tensors",
    "numel_of",
    "persistent_buffers",
    "pipeline_of",
    "pooler",
    "pretrained",
    "read_past",
    "reads_packed_rows",
    "remember_values",
    "require_layer_stacks",
    "require_output_projections",
    "set_cache",
    "set_pipeline",
    "shape_of",
    "stacked_experts",
    "switched_activation_checkpointing",
    "task_head",
    "task_of",
    "weightless_copy",
    "without_cache",
]
