"""The tensors of an adapter that peft has loaded, by the names that ftplug's methods give them.

So whatever peft does with a file (keys of older versions, projections that are drawn again, pruned
ranks) is peft's own; what is adopted is what ``PeftModel.from_pretrained`` computes with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftplug_plugins.peft_bridge.keys import ADAPTER
from ftplug_plugins.virtual.tokens import ENCODERS

if TYPE_CHECKING:
    import torch
    from torch import nn


def value_of(loaded: Any, name: str) -> torch.Tensor | None:
    """Return the tensor of a PeftModel that a method of ftplug calls ``name``; None for none.

    ``loaded`` is what peft made of the base: in it a module that was saved whole stands beside the
    original one, and what layers share is on peft's tuner.
    """
    parts = name.split(".")
    if (place := next((i for i, part in enumerate(parts) if part in ENCODERS), None)) is not None:
        return _walk(loaded.prompt_encoder[ADAPTER], parts[place + 1 :])
    for root in _roots(loaded):
        if (found := _walk(root, parts)) is not None:
            return found
    return None


def tuner_layers(loaded: Any) -> dict[str, nn.Module]:
    """Return the outermost layers of peft, by the names in the base of what they are around."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    inner = loaded.get_base_model()
    layers: dict[str, Any] = {
        n: m for n, m in inner.named_modules() if isinstance(m, BaseTunerLayer)
    }
    return {
        name: layer
        for name, layer in layers.items()
        if not any(name.startswith(f"{other}.") for other in layers)
    }


def tuner_targets(loaded: Any) -> list[str]:
    """Return the modules that ``target_modules`` means.

    Left out is what peft put a layer around for another reason: a parameter of the module
    (``target_parameters``), or a weight that is tied to a target's.
    """
    from peft.tuners.lora.layer import ParamWrapper

    return [
        name
        for name, layer in tuner_layers(loaded).items()
        if not isinstance(layer, ParamWrapper) and not getattr(layer, "tied_adapter", None)
    ]


def changed(loaded: Any, model: nn.Module, held: Collection[str]) -> Iterator[str]:
    """Yield the parameters of the base that have other values in the PeftModel.

    What peft computes in its layers from a weight is not asked, unless the file holds the weight
    (``held``); their biases are.
    """
    import torch

    inside = tuple(f"{name}." for name in tuner_layers(loaded))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name.startswith(inside) and not name.endswith(".bias") and name not in held:
            continue
        theirs = value_of(loaded, name)
        if theirs is not None and not torch.equal(theirs.detach(), parameter.detach()):
            yield name


def as_in_base(loaded: Any, model: nn.Module) -> Iterator[torch.Tensor]:
    """Yield what the PeftModel has of the base with its very values, or by another name, too."""
    import torch

    once = {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        theirs = value_of(loaded, name)
        if theirs is not None and (name not in once or torch.equal(theirs, parameter)):
            yield theirs


def untied(loaded: Any, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield pairs of names that are one tensor in the base, and two with other values in peft."""
    import torch

    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        one = first.setdefault(id(parameter), name)
        a, b = value_of(loaded, one), value_of(loaded, name)
        if a is not None and b is not None and a is not b and not torch.equal(a, b):
            yield one, name


def _roots(loaded: Any) -> Iterator[Any]:
    yield loaded.get_base_model()
    yield loaded.base_model
    yield loaded


def _walk(node: Any, parts: Sequence[str]) -> torch.Tensor | None:
    import torch
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(node, ModulesToSaveWrapper) and ADAPTER in node.modules_to_save:
        return _walk(node.modules_to_save[ADAPTER], parts)
    if not parts:
        return node if isinstance(node, torch.Tensor) else None
    first, rest = parts[0], parts[1:]
    inner: Any = getattr(node, first, None)
    if inner is None and _holds(node, first):
        inner = node[first]
    if inner is None and hasattr(node, "base_layer"):
        return _walk(node.base_layer, parts)
    return None if inner is None else _walk(inner, rest)


def _holds(node: Any, key: str) -> bool:
    from torch import nn

    return isinstance(node, Mapping | nn.ModuleDict | nn.ParameterDict) and key in node
