"""LoRA and DoRA of MLX: ``adapters.safetensors``, and ``lora_parameters`` in its config.

mlx-lm computes ``W x + scale (x lora_a) lora_b``: A is (in_features, r), B is (r, out_features), of
peft's the transposed (https://github.com/ml-explore/mlx-lm, mlx_lm/tuner/lora.py). The scale is the
factor itself and not divided by the rank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import ArtifactError
from ftplug_plugins.layouts.converted import LoraFile, number, whole_number
from ftplug_plugins.layouts.files import tensors_in
from ftplug_plugins.layouts.plain_peft import PlainPeft

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "adapters.safetensors"


def recognises(directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds what mlx-lm saves."""
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def read(
    directory: Path, config: Mapping[str, Any], workspace: Path, *, allow_pickle: bool
) -> PlainPeft:
    """Write the adapter anew for peft, with both matrices transposed."""
    kind = config.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise ArtifactError(f"{directory}: MLX's fine_tune_type={kind!a:.40} is no adapter")
    settings = config.get("lora_parameters")
    if not isinstance(settings, Mapping):
        raise ArtifactError(f"{directory}: its lora_parameters are no JSON object")
    rank = whole_number(settings.get("rank"), f"{directory}: rank")
    alpha = settings.get("alpha", rank)
    if alpha != rank:
        raise ArtifactError(
            f"{directory}: lora_parameters has alpha={alpha!a:.40}, which older mlx-lm multiplies "
            "by and newer ones ignore: set it to the rank if the scale is the whole factor"
        )
    pairs, magnitudes = _parts(directory, tensors_in(directory / WEIGHTS, allow_pickle=False))
    file = LoraFile(
        pairs,
        rank=rank,
        scale=number(settings.get("scale"), f"{directory}: scale"),
        dropout=number(settings.get("dropout", 0.0), f"{directory}: dropout"),
        magnitudes=magnitudes,
    )
    named = config.get("model")
    about = {"base_model_name_or_path": named if isinstance(named, str) else None}
    title = f"a {'DoRA' if magnitudes else 'LoRA'} adapter of MLX"
    return file.written(workspace, title=title, about=about | {"task_type": "CAUSAL_LM"})


def _parts(
    directory: Path, held: Mapping[str, Tensor]
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return A and B by module, transposed, and DoRA's magnitudes."""
    parts: dict[str, dict[str, Tensor]] = {"lora_a": {}, "lora_b": {}, "m": {}}
    for key, tensor in held.items():
        module, _, part = key.rpartition(".")
        if part not in parts or not module:
            raise ArtifactError(f"{directory}: {key[:80]!a} is no tensor of MLX's LoRA")
        if part != "m" and tensor.ndim != 2:
            raise ArtifactError(
                f"{directory}: {key[:80]!a} is {tuple(tensor.shape)}: LoRA of several experts in "
                "one is not read here"
            )
        parts[part][module] = tensor
    a, b, magnitudes = parts.values()
    if not a or a.keys() != b.keys() or (magnitudes and magnitudes.keys() != a.keys()):
        raise ArtifactError(f"{directory}: {WEIGHTS}: lora_a, lora_b or m of a module is missing")
    return {name: (a[name].T, b[name].T) for name in a}, magnitudes
