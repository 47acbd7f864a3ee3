"""Models whose parameters processes share, under FSDP2 or DeepSpeed ZeRO-3, and their optimizers.

:mod:`ftplug.structure.shards` knows what a single tensor is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.errors import FtplugError, MethodError, one_line
from ftplug.structure.shards import (
    is_partitioned,
    is_shard,
    own_part,
    put_to_rest,
    shard_as,
    whole,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


# How gloo and the store say that nobody is there any more; nccl ends the process itself.
_GONE = re.compile(
    r"connection (was )?(closed|reset|refused)|broken pipe|timed? ?out|socket (closed|error)", re.I
)


@contextmanager
def partners_awaited() -> Iterator[None]:
    """Say in one line that another process has gone, or has not answered in the run's time."""
    import torch

    try:
        yield
    except RuntimeError as error:
        group = torch.distributed
        several = group.is_available() and group.is_initialized() and group.get_world_size() > 1
        if not (several and _GONE.search(str(error))):
            raise
        reason = one_line(str(error).partition("\n")[0])[:200]
        raise FtplugError(
            f"process {group.get_rank()} waited for another process of this run, which has ended "
            f"or has not answered within the run's timeout ({reason}): see what that one said, "
            "then start all again, from the last checkpoint (resume_from_checkpoint=True)"
        ) from error


def is_sharded(model: nn.Module) -> bool:
    """Whether the model's parameters are shards, at rest."""
    reshard(model)
    return any(is_shard(parameter) for parameter in model.parameters())


def slowest(seconds: float, model: nn.Module) -> float:
    """Return the longest time of all processes that share the model, which must all call."""
    import torch

    if not is_sharded(model):
        return seconds
    device = next(own_part(parameter).device for parameter in model.parameters())
    time = torch.tensor(seconds, device=device)
    with partners_awaited():
        torch.distributed.all_reduce(time, torch.distributed.ReduceOp.MAX)
    return float(time)


def refuse_divided(model: nn.Module, names: str) -> None:
    """Refuse to put methods on a model of which this process holds a part, for good.

    What ``from_pretrained`` divides are plain tensors in transformers 5.8 and older. What
    DeepSpeed's ``zero.Init`` alone partitioned takes up modules that are added now: the engine
    comes later.
    """
    mesh = getattr(model, "_device_mesh", None)
    if mesh is not None and mesh.size() > 1:
        raise MethodError(
            f"{names}: from_pretrained divided this model among {mesh.size()} processes (tp_plan=, "
            "tp_size= or distributed_config=), where neither the base's fingerprint nor the values "
            "that a method starts from are those of one process: load it without, and train with "
            "DDP, FSDP2 (fsdp=True) or DeepSpeed"
        )
    if is_sharded(model) and not _takes_up_more(model):
        raise MethodError(
            f"{names}: the model is sharded over processes already: apply methods first, and "
            "let the Trainer shard it (fsdp=True, deepspeed=)"
        )


def _takes_up_more(model: nn.Module) -> bool:
    has_engine = hasattr(model, "ds_inflight_param_registry")
    return not has_engine and any(is_partitioned(parameter) for parameter in model.parameters())


def reshard(model: nn.Module) -> None:
    """Let the model hold its shards: a forward may leave whole parameters in place.

    Those are copies: what is written into them is lost.
    """
    import torch

    put_to_rest(model)

    if not torch.distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def local_parameters(model: nn.Module) -> dict[str, Tensor]:
    """Return what this process holds of each parameter, at rest."""
    reshard(model)
    return {name: own_part(parameter) for name, parameter in model.named_parameters()}


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


def is_offloaded(model: nn.Module) -> bool:
    """Whether some of a model waits on the CPU or a disk until its forward comes to it."""
    places = getattr(structure.pretrained(model), "hf_device_map", None) or {}
    found = {str(place) for place in places.values()}
    moved = any(getattr(m.__dict__.get("_hf_hook"), "offload", False) for m in model.modules())
    return moved or "disk" in found or ("cpu" in found and len(found) > 1)
