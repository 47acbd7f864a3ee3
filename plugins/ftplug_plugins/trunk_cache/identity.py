"""What decides the values that a trunk gives: its weights, its code and the kernels that run it.

Two runs whose trunks have one key give each example the same hidden states, on the CPU to the last
bit. The base's fingerprint is a sample of values; here every value counts.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug_plugins.trunk_cache.cut import TrunkSpec
from ftplug_plugins.trunk_cache.forward import layers, outside

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_FORMAT = 1  # raised where an example is run or stored in another way
_PATCHED = ("forward", "_ftplug_inner_forward")  # what is in an instance that somebody patched
# Of a config: what names the task, the file or the run, and not what a layer computes.
_TASK = {
    "_name_or_path", "architectures", "dtype", "finetuning_task", "id2label", "label2id",
    "num_labels", "problem_type", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


class NotSharedError(Exception):
    """Why a run keeps what its trunk gives to itself; it goes on without."""


def trunk_key(backbone: Any, spec: TrunkSpec, tag: str, rounded_to: str) -> str:
    """Return 32 hex digits for what a trunk computes in the precision ``tag``, rounded when stored.

    Raises :class:`NotSharedError` where something decides its values that cannot be told apart.
    """
    lower = [module for layer in layers(backbone, spec) for module in layer.modules()]
    _refuse_hooks([*outside(backbone, spec), *lower])
    digest = hashlib.sha256()
    cut = (spec.layers, spec.depth, spec.embeddings, spec.bias, spec.relative, spec.causal)
    said = [
        _FORMAT,
        version("ftplug"),
        cut,
        tag,
        rounded_to,
        *_code(backbone, spec),
        *_kernels(backbone),
    ]
    digest.update(json.dumps(said, sort_keys=True, default=str).encode())
    for name, tensor in _tensors(backbone, spec):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(raw(tensor))
    return digest.hexdigest()[:32]


def raw(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _refuse_hooks(modules: list[nn.Module]) -> None:
    """What a hook or a patched forward does cannot be told apart by its name."""
    for module in modules:
        hooked = module._forward_hooks or module._forward_pre_hooks
        if hooked or any(name.startswith(_PATCHED) for name in module.__dict__):
            raise NotSharedError(f"somebody hooks into the forward of {type(module).__name__}")


def _tensors(backbone: Any, spec: TrunkSpec) -> Iterator[tuple[str, Tensor]]:
    """Yield weights and buffers by name; a trained head, or pooler, decides nothing below it."""
    import torch

    upper = tuple(
        f"{spec.layers}.{index}."
        for index in range(spec.depth, len(backbone.get_submodule(spec.layers)))
    )
    for name, parameter in backbone.named_parameters():
        if name.startswith(upper) or name in spec.above:
            continue
        if type(parameter) is not torch.nn.Parameter or not parameter.is_floating_point():
            raise NotSharedError(f"{name} is quantized")
        yield name, parameter
    for name, buffer in backbone.named_buffers():
        if not name.startswith(upper):
            yield name, buffer


def _code(backbone: Any, spec: TrunkSpec) -> Iterator[Any]:
    """Yield which classes run, and with which settings."""
    config = backbone.config
    yield type(backbone).__qualname__
    yield getattr(config, "_attn_implementation", None)
    yield {name: value for name, value in config.to_dict().items() if name not in _TASK}
    for part in (backbone.get_submodule(spec.embeddings), *layers(backbone, spec)):
        for name, module in part.named_modules():
            cls = type(module)
            settings = "" if "Dropout" in cls.__name__ else module.extra_repr()
            yield f"{name} {cls.__module__}.{cls.__qualname__} {settings}"


def _kernels(backbone: nn.Module) -> Iterator[Any]:
    """Yield what decides the last bits: libraries, processor, threads."""
    import torch
    import transformers

    device = next(backbone.parameters()).device
    yield from (torch.__version__, transformers.__version__, device.type)
    yield from (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled())
    if device.type == "cpu":
        yield from (torch.backends.cpu.get_cpu_capability(), torch.get_num_threads(), _processor())
    else:
        yield _name_of(device)


def _name_of(device: torch.device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _processor() -> str:
    """Return the processor's model where the system says it: libraries choose kernels by it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
