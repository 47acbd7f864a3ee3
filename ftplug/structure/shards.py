"""Tensors that processes share: of each a process holds a part, and this is how to get at it.

FSDP2 makes a parameter a DTensor. DeepSpeed ZeRO-3 (and its ``zero.Init``) leaves it an empty
tensor of shape (0,) with attributes of its own: ``ds_shape`` and ``ds_numel`` are those of the
whole, ``ds_tensor`` is this process's part, flat and padded to the same size everywhere. They are
found by these attributes: nothing here imports deepspeed.

What is called "whole" here takes all processes: each must call, in the same order, or the others
wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def is_partitioned(tensor: Any) -> bool:
    """Whether it is a parameter that DeepSpeed ZeRO-3 keeps in parts."""
    return hasattr(tensor, "ds_id")


def is_shard(tensor: Any) -> bool:
    """Whether this process holds a part of the tensor."""
    import torch

    if is_partitioned(tensor):
        return True
    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def shape_of(tensor: Any) -> torch.Size:
    """Return the shape of the whole tensor."""
    shape: torch.Size = tensor.ds_shape if is_partitioned(tensor) else tensor.shape
    return shape


def numel_of(tensor: Any) -> int:
    """Return how many elements the whole tensor has."""
    return int(tensor.ds_numel if is_partitioned(tensor) else tensor.numel())


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, on the CPU if it was gathered; one that is no shard as it is."""
    if not is_partitioned(tensor):
        return cast("Any", tensor).full_tensor().cpu() if is_shard(tensor) else tensor
    with gathered(tensor):
        return tensor.detach().to("cpu", copy=True)


@contextmanager
def gathered(*tensors: Tensor) -> Iterator[None]:
    """Let what DeepSpeed partitioned be whole within the block, to be read."""
    parts: Any = [t for t in tensors if is_partitioned(t) and not _is_gathered(t)]
    try:
        for parameter in parts:
            parameter.all_gather()
        yield
    finally:
        for parameter in parts:
            parameter.partition()


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, in the memory where it is."""
    found: Any = tensor
    if is_partitioned(tensor):
        return cast("Tensor", found.ds_tensor)
    return cast("Tensor", found.detach().to_local()) if is_shard(tensor) else tensor


def shard_as(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole value on the device of ``like``, and as a DTensor if ``like`` is one."""
    if is_shard(value):
        return value
    if not is_shard(like):
        return value.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    where: Any = like
    # Every process has the value: each takes its own part, and nothing is sent.
    return distribute_tensor(
        value.to(like.device), where.device_mesh, where.placements, src_data_rank=None
    )


def replace_values(tensor: Tensor, value: Tensor) -> Callable[[], Any]:
    """Give a tensor of a model other values (whole or shards); call the result to undo it."""
    if not is_shard(tensor):
        before = tensor.data
        tensor.data = value.to(tensor.device, tensor.dtype)
        return partial(setattr, tensor, "data", before)
    before = own_part(tensor).clone()  # the memory itself must stay: FSDP and DeepSpeed read it
    _write(tensor, _part_of(value, tensor))
    return partial(_write, tensor, before)


def remember_values(tensor: Tensor) -> Callable[[], Any]:
    """Return what gives a tensor the values back that it has now, in the memory that it has now."""
    if is_partitioned(tensor):
        return partial(_write, tensor, own_part(tensor).clone())
    return partial(_put_back, tensor, tensor.data, tensor.detach().clone())


def _put_back(tensor: Tensor, memory: Tensor, values: Tensor) -> None:
    memory.copy_(values)  # it may have been written over
    tensor.data = memory  # or left


def write_values(tensor: Tensor, value: Tensor) -> None:
    """Write values (whole or shards) over those of a tensor."""
    write_part(tensor, _part_of(value, tensor))


def write_part(tensor: Tensor, part: Tensor) -> None:
    """Write over what this process holds of a tensor."""
    import torch

    with torch.no_grad():
        _write(tensor, part)


def put_to_rest(model: nn.Module) -> None:
    """Let a model under ZeRO-3 hold its parts alone: what was gathered is a copy of them.

    What DeepSpeed keeps gathered between the steps, small parameters, stays so.
    """
    in_flight = getattr(model, "ds_inflight_param_registry", {})
    for parameter in cast("Any", model.parameters()):
        if not is_partitioned(parameter):
            continue
        if parameter in in_flight:
            in_flight.pop(parameter).wait()
        if _is_gathered(parameter) and not parameter.ds_persist:
            parameter.ds_active_sub_modules.clear()
            parameter.partition()


def _part_of(value: Tensor, like: Tensor) -> Tensor:
    """Return the part of a value that this process holds where it holds a part of ``like``."""
    if is_partitioned(value) or not is_partitioned(like):
        return own_part(shard_as(value, like))
    import torch

    where: Any = like
    size, rank = where.ds_tensor.ds_numel, where.ds_zero_partition_rank
    mine = value.reshape(-1)[size * rank : size * (rank + 1)]
    part = torch.zeros_like(where.ds_tensor)
    part[: mine.numel()].copy_(mine)
    return part


def _write(tensor: Tensor, part: Tensor) -> None:
    if not is_partitioned(tensor):
        own_part(tensor).copy_(part)
        return
    parts: Any = tensor
    kept_gathered = _is_gathered(parts)
    if kept_gathered:
        parts.ds_active_sub_modules.clear()
        parts.partition()
    parts.ds_tensor.copy_(part)
    if kept_gathered and parts.ds_persist:
        parts.all_gather()  # every process writes, so all are here


def _is_gathered(parameter: Any) -> bool:
    return bool(parameter.ds_status.name == "AVAILABLE")
