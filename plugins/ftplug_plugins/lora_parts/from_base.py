"""LoRA that starts from the base's own directions (PiSSA, OLoRA) and leaves the base as it is.

peft subtracts the start from the weights; here the start, A0 and B0, is a pair of buffers beside A
and B, and is subtracted from the update. In peft's file that is one LoRA of rank 2 r:
A = [A; A0], B = [B, -B0].
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.keys import ADAPTER

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import RunView

_START = "lora_start"


@contextmanager
def base_kept(config: Any, model: nn.Module) -> Iterator[None]:
    """Give the target modules their weights back after peft has decomposed them."""
    import torch
    from peft.tuners._buffer_dict import BufferDict
    from peft.tuners.tuners_utils import check_target_module_exists

    kept: dict[int, torch.Tensor] = {}
    for name, module in model.named_modules():
        if check_target_module_exists(config, name) and hasattr(module, "weight"):
            _refuse_unfit(str(config.init_lora_weights), name, module)
            kept[id(module)] = module.weight.detach().clone()
    yield
    for _, layer in peft_files.tuner_layers(model):
        base, weights = layer.get_base_layer(), (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER])
        with torch.no_grad():
            base.weight.data = kept[id(base)]
        start = {n: m.weight.detach().clone() for n, m in zip("AB", weights, strict=True)}
        layer.add_module(_START, BufferDict(start, persistent=True))
        layer.lora_variant[ADAPTER] = FromStart()


def _refuse_unfit(start: str, name: str, module: Any) -> None:
    """Refuse weights that cannot be decomposed before any is."""
    kind = type(module).__name__
    if not module.weight.is_floating_point():
        raise MethodError(
            f"lora: init_lora_weights={start} decomposes the base's weights, and {name} is "
            "quantized: use init_lora_weights=true"
        )
    if start == "olora" and kind == "Conv1D":
        raise MethodError(f"lora: peft's olora does not fit the {kind} at {name}: use pissa")


class FromStart:
    """peft's protocol of a LoRA variant: the update less what it was at the start."""

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Any, result: Any, **kwargs: Any) -> Any:
        """Add ``scaling (B A - B0 A0) x``: exactly nothing at the start."""
        from torch.nn.functional import linear

        lora_A, lora_B = module.lora_A[active_adapter], module.lora_B[active_adapter]
        start, x = getattr(module, _START), x.to(lora_A.weight.dtype)
        dropped = module.lora_dropout[active_adapter](x)
        update = linear(linear(dropped, lora_A.weight), lora_B.weight)
        update = update - linear(linear(x, start["A"]), start["B"])
        return result + update * module.scaling[active_adapter]

    @staticmethod
    def merge_safe(module: Any, active_adapter: str, orig_weight: Any) -> Any:
        """Return the weight with the update folded in."""
        return orig_weight + _delta(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Any) -> None:
        """Fold the update into the weight."""
        orig_weight.data += _delta(module, active_adapter).to(orig_weight.dtype)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Any) -> Any:
        """Return the weight without the update."""
        return orig_weight - _delta(module, active_adapter).to(orig_weight.dtype)


def _delta(module: Any, adapter: str) -> Any:
    start = getattr(module, _START)
    product = module.lora_B[adapter].weight @ module.lora_A[adapter].weight
    change = (product - start["B"] @ start["A"]) * module.scaling[adapter]
    return change.T if module.fan_in_fan_out else change


def save(
    model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor], *, run: RunView
) -> Iterable[str]:
    """Write peft's two files with twice the rank, and return the names of all they hold."""
    config = peft_files.config_of(model)
    if config.use_rslora and (config.rank_pattern or config.alpha_pattern):
        return ()  # each rank has a scale of its own, which one config cannot double
    import torch

    joined = {n: t for n, t in tensors.items() if f".{_START}." not in n}
    for name, part, sign, dim in _pairs(model):
        start = tensors[name.replace(f"lora_{part}.{ADAPTER}.weight", f"{_START}.{part}")]
        joined[name] = torch.cat([tensors[name], sign * start], dim=dim)
    written = peft_files.save(model, directory, joined, run=run, config=_doubled(config))
    return tensors if written else ()


def load(model: nn.Module, directory: Path, *, run: RunView) -> Mapping[str, torch.Tensor]:
    """Read them back: the first half of each matrix is trained, the second was the start."""
    found = dict(peft_files.load(model, directory, run=run))
    for name, part, sign, dim in _pairs(model):
        if name in found:
            trained, start = found[name].chunk(2, dim=dim)
            found[name] = trained.contiguous()
            found[name.replace(f"lora_{part}.{ADAPTER}.weight", f"{_START}.{part}")] = sign * start
    return found


def _pairs(model: nn.Module) -> Iterator[tuple[str, str, int, int]]:
    """Yield the name of every A and B, which it is, its start's sign, and where that is joined."""
    for name, _ in model.named_parameters():
        for part, sign, dim in (("A", 1, 0), ("B", -1, 1)):
            if name.endswith(f".lora_{part}.{ADAPTER}.weight"):
                yield name, part, sign, dim


def _doubled(config: Any) -> Any:
    """Return the config of the plain LoRA that computes the same."""
    doubled = copy.copy(config)
    doubled.init_lora_weights = True
    doubled.lora_alpha = 2 * config.lora_alpha
    if config.use_rslora:
        doubled.use_rslora = False
        doubled.lora_alpha = 2 * config.lora_alpha * config.r**0.5
    doubled.r = 2 * config.r
    doubled.rank_pattern = {n: 2 * r for n, r in (config.rank_pattern or {}).items()}
    doubled.alpha_pattern = {n: 2 * a for n, a in (config.alpha_pattern or {}).items()}
    return doubled
