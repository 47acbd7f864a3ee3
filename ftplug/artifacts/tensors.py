"""Tensors on their way to and from files: written, read, checked against a model, copied in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.attaching.plan import Plan, saved_tensors
from ftplug.attaching.sharding import partners_awaited
from ftplug.errors import ArtifactError
from ftplug.structure import named_tensors
from ftplug.structure.shards import own_part, shape_of, whole, write_part, write_values

if TYPE_CHECKING:
    import torch
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
    with partners_awaited():
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
        if tensor.shape != (needed := shape_of(expected[name])):
            raise ArtifactError(
                f"{where}: tensor {name} is {tuple(tensor.shape)}, the model needs {tuple(needed)}"
            )
        if not _can_become(tensor.dtype, expected[name].dtype):
            raise ArtifactError(
                f"{where}: tensor {name} holds {tensor.dtype}, the model needs "
                f"{expected[name].dtype}"
            )


def _can_become(stored: torch.dtype, needed: torch.dtype) -> bool:
    """Whether copying converts one type to the other, as it does between those that compute.

    Types of less than two bytes have scales that a copy knows nothing of; whole numbers would be
    cut off.
    """
    import torch

    computing = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return stored == needed or (stored in computing and needed in computing)


def check_finite(
    model: nn.Module, tensors: Mapping[str, Tensor], where: Path, *, but: Collection[str] = ()
) -> None:
    """Refuse values that are NaN or infinite, or become so in the types of the model.

    ``but`` names what may be: masks that a base keeps in buffers of its own.
    """
    live = named_tensors(model)
    for name, tensor in tensors.items():
        if name in but or not tensor.is_floating_point() or not tensor.numel():
            continue
        if not _is_finite(tensor, live[name].dtype if name in live else tensor.dtype):
            raise ArtifactError(
                f"{where}: tensor {name} has values that are NaN or infinite: what was trained is "
                "lost; force=True loads it all the same"
            )


def _is_finite(tensor: Tensor, dtype: torch.dtype) -> bool:
    import torch

    low, high = torch.aminmax(tensor)  # NaN, if there is one
    return bool(torch.isfinite(torch.stack((low, high)).to(dtype)).all())


def copy_tensors(model: nn.Module, plan: Plan, tensors: dict[str, Tensor]) -> None:
    """Copy checked tensors into the model; where one cannot be, all have the values they had.

    Each entry of ``tensors`` becomes what the model had of it in this process: no more than one
    tensor is there twice.
    """
    live = saved_tensors(model, plan)
    if empty := next((name for name in tensors if live[name].is_meta), None):
        raise ArtifactError(
            f"{empty} has no place for values: this {type(model).__name__}, or a part of it, is on "
            "the meta device: load its weights first"
        )
    exchanged: list[str] = []
    try:
        for name, tensor in ((name, tensors[name]) for name in list(tensors)):
            tensors[name] = own_part(live[name]).detach().to("cpu", copy=True)
            exchanged.append(name)
            write_values(live[name], tensor)
    except BaseException:
        for name in reversed(exchanged):
            write_part(live[name], tensors[name])
        raise


@contextmanager
def taken_back(model: nn.Module, plan: Plan, before: Mapping[str, Tensor]) -> Iterator[None]:
    """Give a model the values it had before :func:`copy_tensors`, where the block fails."""
    try:
        yield
    except BaseException:
        live = saved_tensors(model, plan)
        for name, tensor in before.items():
            write_part(live[name], tensor)
        raise


def refuse_empty(shapes: Mapping[str, Sequence[int]], file: str) -> None:
    """Refuse what DeepSpeed ZeRO-3 leaves in the place of a parameter, instead of its values."""
    empty = [name for name, shape in shapes.items() if tuple(shape) == (0,)]
    if empty:
        raise ArtifactError(
            f"{file}: tensor {empty[0]} has the shape (0,) ({len(empty)} of {len(shapes)} have): "
            "this process holds none of its values, as under DeepSpeed ZeRO-3: save by "
            "trainer.save_model() or ftplug.save(model, …) in all processes, which gather them"
        )


def refuse_empty_in(directory: Path) -> None:
    """Refuse such tensors in the safetensors files that a method wrote by itself."""
    from safetensors import safe_open

    for path in sorted(directory.rglob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
        refuse_empty(shapes, path.name)


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors under their in-memory names."""
    from safetensors.torch import save_file

    refuse_empty({name: tensor.shape for name, tensor in tensors.items()}, path.name)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})
