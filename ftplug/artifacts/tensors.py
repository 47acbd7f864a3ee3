"""Tensors on their way to and from files: written, read, checked against a model, copied in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.attaching.plan import Plan, saved_tensors
from ftplug.attaching.sharding import shard_as, whole
from ftplug.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor, nn


def gathered_tensors(
    model: nn.Module, plan: Plan, state_dict: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return the tensors to save: the ones given, or the model's own.

    Shards are gathered, for which all processes must call.
    """
    if state_dict:
        if lost := [name for name in plan.saved if name not in state_dict]:
            raise ArtifactError(f"the state_dict given lacks {lost[0]} ({len(lost)} in all)")
        return {name: state_dict[name] for name in plan.saved}
    return {name: whole(tensor) for name, tensor in saved_tensors(model, plan).items()}


def check_tensors(model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Refuse missing, unexpected and wrongly shaped tensors, naming the first of them."""
    expected = saved_tensors(model, plan)
    if missing := [name for name in expected if name not in tensors]:
        raise ArtifactError(f"{where}: tensor {missing[0]} is missing ({len(missing)} in all)")
    if unknown := [name for name in tensors if name not in expected]:
        raise ArtifactError(
            f"{where}: tensor {unknown[0]} belongs to nothing in this model ({len(unknown)} in all)"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ArtifactError(
                f"{where}: tensor {name} is {tuple(tensor.shape)}, "
                f"the model needs {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() != expected[name].is_floating_point():
            raise ArtifactError(
                f"{where}: tensor {name} holds {tensor.dtype}, the model needs "
                f"{expected[name].dtype}"
            )


def copy_tensors(model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
    """Copy checked tensors into the model."""
    import torch

    live = saved_tensors(model, plan)
    with torch.no_grad():
        for name, tensor in tensors.items():
            live[name].copy_(shard_as(tensor, live[name]))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors under their in-memory names."""
    from safetensors.torch import save_file

    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})
