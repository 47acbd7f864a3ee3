"""Parameters that processes share: FSDP2 leaves each process a shard of every one, a DTensor.

What is called "whole" here takes all processes: each must call, or the others wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_shard(tensor: Any) -> bool:
    """Whether this process holds a part of the tensor."""
    import torch

    if not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's parameters are shards, at rest."""
    reshard(model)
    return any(is_shard(parameter) for parameter in model.parameters())


def reshard(model: nn.Module) -> None:
    """Let the model hold its shards: after a forward FSDP2 may leave whole parameters in place.

    Those are copies: what is written into them is lost.
    """
    import torch

    if not torch.distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor, on the CPU if it was gathered; one that is no shard as it is."""
    return cast("Any", tensor).full_tensor().cpu() if is_shard(tensor) else tensor


def local_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return what this process holds of each parameter, at rest."""
    reshard(model)
    return {name: _own(parameter) for name, parameter in model.named_parameters()}


def _own(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds, in the memory where it is."""
    return cast("Any", tensor).detach().to_local() if is_shard(tensor) else tensor


def replace_values(tensor: Tensor, value: Tensor) -> Callable[[], Any]:
    """Give a tensor of a model other values (whole or shards); call the result to undo it."""
    if not is_shard(tensor):
        before = tensor.data
        tensor.data = value.to(tensor.device, tensor.dtype)
        return partial(setattr, tensor, "data", before)
    own = _own(tensor)  # FSDP reads this memory: it must stay
    before = own.clone()
    own.copy_(_own(shard_as(value, tensor)))
    return partial(own.copy_, before)


def shard_as(value: Tensor, like: Tensor) -> Tensor:
    """Return a whole value on the device of ``like``, and as shards if ``like`` is."""
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


def optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return an optimizer's state dict with whole tensors, whatever the number of processes."""
    state: dict[str, Any] = optimizer.state_dict()
    return state | {"state": _mapped(state["state"], whole)}


def load_optimizer_state(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Load what :func:`optimizer_state` returned into an optimizer of shards."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def sharded(number: int, value: Any) -> Any:
        like = parameters[number]
        return shard_as(value, like) if getattr(value, "shape", None) == like.shape else value

    per_parameter = {
        number: _mapped(known, lambda value, number=number: sharded(number, value))
        for number, known in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": per_parameter})


def _mapped(value: Any, change: Any) -> Any:
    """Apply ``change`` to the tensors in nested dicts."""
    import torch

    if isinstance(value, dict):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    return change(value) if isinstance(value, torch.Tensor) else value
