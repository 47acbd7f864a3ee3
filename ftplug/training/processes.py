"""Training on several processes: what a method must fit, and what is refused before a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object

from ftplug.attaching.sharding import partners_awaited
from ftplug.errors import ArtifactError, FtplugError, MethodError, one_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

    from ftplug.attaching.plan import Plan
    from ftplug.host import Host


@contextmanager
def together(doing: str) -> Iterator[None]:
    """Let every process raise what one of them raises within; the others would wait for it.

    All processes must enter, and leave only when all have come to the end.
    """
    failure = None
    try:
        yield
    except Exception as error:  # whatever it is, the others must not wait
        failure = error
    said = None if failure is None else f"{type(failure).__name__}: {one_line(failure)}"
    try:
        with partners_awaited():
            heard = gather_object([said])
    except FtplugError:
        if failure is not None:  # this process's own failure says more
            raise failure from None
        raise
    for rank, other in enumerate(heard):
        if other is not None and failure is None:
            raise ArtifactError(f"process {rank} failed at {doing}: {other}")
    if failure is not None:
        raise failure


def keep_timeout(args: TrainingArguments) -> None:
    """Let processes wait for each other as long as ``ddp_timeout`` says, where it was set.

    transformers gives it to the group of processes, but not on CPUs (``use_cpu``).
    """
    import torch

    usual = next(f.default for f in fields(args) if f.name == "ddp_timeout")
    several = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not several or args.ddp_timeout == usual:  # else whoever made the group has chosen it
        return
    if change := getattr(torch.distributed.distributed_c10d, "_set_pg_timeout", None):
        change(args.ddp_timeout_delta)


def check_launch(trainer: Any, host: Host) -> None:
    """Refuse methods that cannot train the way a Trainer's processes share the model."""
    if trainer.is_deepspeed_enabled:
        _check_deepspeed(trainer.accelerator.state.deepspeed_plugin, host)
    elif trainer.is_fsdp_xla_enabled:
        raise MethodError("FSDP on XLA is not supported: use fsdp_config={'version': 2} on GPUs")
    elif trainer.is_fsdp_enabled:
        _check_fsdp(trainer.accelerator.state.fsdp_plugin, host)


# Of DeepSpeed's "zero_optimization": what lets a parameter's parts hold other values than it has.
_ROUNDING = ("zero_quantized_weights", "zero_quantized_nontrainable_weights")


def _check_deepspeed(plugin: Any, host: Host) -> None:
    if plugin.zero_stage == 3:
        _check_zero3(plugin.deepspeed_config.get("zero_optimization", {}), host)
    if "optimizer" in plugin.deepspeed_config and host.implements("build_optimizer"):
        raise MethodError(
            f"{host.names}: DeepSpeed's config names an optimizer, which would replace the "
            "method's own: take it out of the config"
        )
    for hook in ("schedule_trainable", "on_gradients"):
        if host.implements(hook):
            raise MethodError(
                f"{host.names}: DeepSpeed keeps the gradients to itself, and this method changes "
                "them or chooses among them: use DDP or FSDP2 (fsdp=True)"
            )
    for method in host.methods:
        builds = host.implements_for(method, "build_optimizer")
        if builds and (reason := method.sharding_refusal()):
            raise MethodError(
                f"{method.name}: {reason}, and DeepSpeed's optimizer holds all of them in one flat "
                "tensor: use DDP, or another method"
            )


def _check_zero3(config: Mapping[str, Any], host: Host) -> None:
    for method in host.methods:
        if reason := method.partition_refusal():
            raise MethodError(
                f"{method.name}: {reason}, and DeepSpeed ZeRO-3 leaves each process a part of "
                "every tensor: use ZeRO-2, DDP, or another method"
            )
    if (config.get("offload_param") or {}).get("device") == "nvme":
        raise MethodError(
            f"{host.names}: offload_param to nvme leaves the parameters on a disk, where their "
            "values are not at hand to be saved: use the device cpu"
        )
    for name in _ROUNDING:
        if config.get(name):
            raise MethodError(
                f"{host.names}: {name} rounds what a process holds of the base, of which the "
                "artifact then knows nothing: take it out of zero_optimization"
            )
    if config.get("zero_hpz_partition_size", 1) > 1 or config.get("mics_shard_size", -1) > 0:
        raise MethodError(
            f"{host.names}: zero_hpz_partition_size and mics_shard_size keep a second copy of "
            "every part, which ftplug does not write: take them out of zero_optimization"
        )


def _check_fsdp(plugin: Any, host: Host) -> None:
    if plugin.fsdp_version != 2:
        raise MethodError(
            f"{host.names}: FSDP1 flattens parameters into others, and what may train is known by "
            "name: use FSDP2, fsdp_config={'version': 2}"
        )
    if plugin.cpu_ram_efficient_loading:
        raise MethodError(
            "cpu_ram_efficient_loading gives all processes but the first an empty base, of which "
            "nothing can be checked: switch it off in fsdp_config"
        )
    if plugin.activation_checkpointing:
        raise MethodError(
            "activation_checkpointing in fsdp_config renames the layers: use the Trainer's own, "
            "TrainingArguments(activation_checkpointing=True) (gradient_checkpointing before 5.23)"
        )
    for method in host.methods:
        if reason := method.sharding_refusal():
            raise MethodError(
                f"{method.name}: {reason}, and FSDP leaves each process a "
                "part of every tensor: use DDP, or another method"
            )


def check_shardable(model: nn.Module, plan: Plan, names: str) -> None:
    """Refuse parameters that FSDP2 cannot replace by shards without changing what they do."""
    live = list(model.named_parameters(remove_duplicate=False))
    places = Counter(id(parameter) for _, parameter in live)
    for name, parameter in live:
        if name in plan.added and places[id(parameter)] > 1:
            raise MethodError(
                f"{names}: {name} is shared by {places[id(parameter)]} modules, which FSDP cannot "
                "shard one by one: use DDP"
            )
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise MethodError(
                f"{names}: {name} has a gradient hook, which FSDP would silently drop: use DDP"
            )
        if not parameter.is_floating_point():
            raise MethodError(
                f"{names}: {name} is {parameter.dtype}, which FSDP cannot shard: load the base "
                "unquantized, or use DDP"
            )


def waits_for_every_gradient(model: Any) -> bool:
    """Whether a wrapped model hangs, or dies, when a parameter gets no gradient in a step.

    DistributedDataParallel does unless it looks for unused parameters, which the Trainer switches
    off under activation checkpointing.
    """
    import torch

    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    if not torch.distributed.is_available():
        return False
    ddp = isinstance(model, torch.nn.parallel.DistributedDataParallel)
    return ddp and (model.static_graph or not model.find_unused_parameters)


def gradients_in_parts(trainer: Any) -> bool:
    """Whether each process holds a part of every gradient, or an engine holds them."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def mixed_in_parts(trainer: Any) -> str | None:
    """Return the type in which shards compute, where that is not the one they are kept in."""
    mixed = str(trainer.accelerator.mixed_precision) if trainer.is_fsdp_enabled else "no"
    return {"bf16": "bfloat16", "fp16": "float16"}.get(mixed)
