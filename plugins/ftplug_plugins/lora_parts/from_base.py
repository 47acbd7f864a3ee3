"""LoRA that starts from the base's own directions (PiSSA, OLoRA) and leaves the base as it is.

peft subtracts the start from the weights; here the start, A0 and B0, is a pair of buffers beside A
and B, and is subtracted from the update. In peft's file that is one LoRA of rank 2 r:
A = [A; A0], B = [B, -B0].
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import MethodError, hookimpl
from ftplug.structure import remember_values
from ftplug_plugins.lora_parts.settings import refuse_beside
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.peft_bridge.method import PeftMethod

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import Context, RunView

_START = "lora_start"
_UNFIT = {
    "init_lora_weights": "A and B start from the base's weights",
    "use_dora": "DoRA's magnitudes would be those of a changed base",
    "use_bdlora": "what is taken from a weight is not block-diagonal",
    "lora_bias": "a weight has no bias to start from",
    "target_parameters": "peft decomposes the weights of modules alone",
}


class StartsFromBase(PeftMethod):
    """What PiSSA and OLoRA share; among the bases of a method it goes before ``Lora``."""

    @abstractmethod
    def start(self) -> str:
        """Return peft's name of the decomposition that A and B are taken from."""

    def require_fit(self, name: str, layer: nn.Module) -> None:
        """Refuse a target whose weight cannot be decomposed; asked before any is."""
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        if not isinstance(layer, nn.Linear | Conv1D | nn.Conv2d):
            raise MethodError(
                f"{self.name}: decomposes the weights of linear layers, and {name} is of "
                f"{type(layer).__name__}: leave it out, or use lora"
            )
        if not layer.weight.is_floating_point():
            raise MethodError(
                f"{self.name}: decomposes the base's weights, and {name} is quantized: use lora"
            )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_beside(self, _UNFIT)

    def shareable(self) -> bool:
        """Whether it shares the model: no, what other methods put there is no base's weight."""
        return False

    def config(self, model: nn.Module, context: Context) -> Any:
        """Return LoRA's config with its start, unless values follow: then nothing is decomposed."""
        config = super().config(model, context)
        config.init_lora_weights = True if context.loading else self.start()
        return config

    def inject(self, config: Any, model: nn.Module) -> None:
        """Build LoRA's layers, and give the base its weights back."""
        with base_kept(config, model, self.require_fit):
            super().inject(config, model)

    @hookimpl
    def save_artifact(
        self, model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor], run: RunView
    ) -> Iterable[str]:
        """Write peft's two files with twice the rank, and return the names of all they hold."""
        config = peft_files.config_of(model)
        if config.use_rslora and (config.rank_pattern or config.alpha_pattern):
            return ()  # each rank has a scale of its own, which one config cannot double
        joined = _joined(model, tensors)
        written = peft_files.save(model, directory, joined, run=run, config=_doubled(config))
        return tensors if written else ()

    @hookimpl
    def load_artifact(
        self, model: nn.Module, directory: Path, run: RunView
    ) -> Mapping[str, torch.Tensor]:
        """Read them back: half of each matrix is trained, the other half was the start."""
        return _parted(model, peft_files.load(model, directory, run=run))


@contextmanager
def base_kept(
    config: Any, model: nn.Module, require_fit: Callable[[str, nn.Module], None]
) -> Iterator[None]:
    """Give the target modules their weights back after peft has decomposed them."""
    from peft.tuners._buffer_dict import BufferDict

    kept: dict[int, Callable[[], None]] = {}
    decomposes = config.init_lora_weights is not True  # else values follow
    for name, module in _targets(config, model):
        require_fit(name, module)
        kept[id(module)] = remember_values(module.weight) if decomposes else _nothing
    try:
        yield
        for name, layer in peft_files.tuner_layers(model):
            base, weights = layer.get_base_layer(), (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER])
            require_fit(name, base)  # peft itself adds experts to all-linear
            start = {n: m.weight.detach().clone() for n, m in zip("AB", weights, strict=True)}
            kept.pop(id(base))()
            layer.add_module(_START, BufferDict(start, persistent=True))
            layer.lora_variant[ADAPTER] = FromStart()
    except BaseException:
        for give_back in kept.values():
            give_back()
        raise


def _nothing() -> None:
    """Give nothing back: nothing is written over."""


def _targets(config: Any, model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the modules that peft will put its layers around."""
    from peft.tuners import tuners_utils as peft_tuners

    named = peft_tuners._maybe_include_all_linear_layers(copy.copy(config), model)
    for name, module in model.named_modules():
        if peft_tuners.check_target_module_exists(named, name) and hasattr(module, "weight"):
            yield name, module


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


def _joined(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with each start in the matrix that it belongs to."""
    import torch

    joined = {n: t for n, t in tensors.items() if f".{_START}." not in n}
    for name, start, sign, dim in _pairs(model):
        joined[name] = torch.cat([tensors[name], sign * tensors[start]], dim=dim)
    return joined


def _parted(model: nn.Module, joined: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors with each start under a name of its own again."""
    parted = dict(joined)
    for name, start, sign, dim in _pairs(model):
        if name in joined:
            trained, begun = joined[name].chunk(2, dim=dim)
            parted[name], parted[start] = trained.contiguous(), sign * begun
    return parted


def _pairs(model: nn.Module) -> Iterator[tuple[str, str, int, int]]:
    """Yield the names of every A or B and its start, the start's sign, and where it is joined."""
    for name, _ in model.named_parameters():
        for part, sign, dim in (("A", 1, 0), ("B", -1, 1)):
            end = f".lora_{part}.{ADAPTER}.weight"
            if name.endswith(end):
                yield name, f"{name.removesuffix(end)}.{_START}.{part}", sign, dim


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
