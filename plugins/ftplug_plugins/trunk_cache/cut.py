"""The cut through a backbone: below the lowest layer that any method trains or changes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.structure import LayerStack, pooler, pretrained, require_layer_stacks
from ftplug_plugins.shared.depth import from_the_top
from ftplug_plugins.shared.eval_mode import is_changed
from ftplug_plugins.virtual.positions import is_causal

if TYPE_CHECKING:
    from torch import nn

NAME = "trunk-cache"
_LEAVE = f"leave {NAME} out"
_BESIDE = "name beside it a method that leaves the lower layers frozen, e.g. freeze"


@dataclass(frozen=True)
class TrunkSpec:
    """The frozen part of a backbone, its input embeddings and lowest layers, and how it is kept.

    ``layers``, ``embeddings`` and ``above`` are names within the backbone, ``bias`` is one within a
    layer: no module is held.
    """

    layers: str
    depth: int  # how many of them
    embeddings: str
    bias: str | None  # what computes T5's bias of the attention
    relative: bool  # padding in front changes nothing
    causal: bool
    above: frozenset[str] = field(default=frozenset(), compare=False)  # what trains, and the pooler
    dtype: str | None = None  # what is kept is rounded to it
    limit: int = 2**31  # bytes
    on_disk: bool = False


def cuts(
    model: nn.Module, may_train: Set[str], added: Set[str]
) -> Iterator[tuple[nn.Module, TrunkSpec]]:
    """Yield backbone and trunk for each stack of layers that begins with a frozen one.

    ``added`` are the names of the parameters that the base does not have. Of an encoder-decoder the
    encoder is cut: a decoder reads what the encoder's top layers give. Raises
    :class:`ftplug.MethodError` where there is none.
    """
    stacks = require_layer_stacks(model, NAME)
    stacks = stacks[:1] if pretrained(model).config.is_encoder_decoder else stacks
    below = from_the_top(model, NAME)[-1]
    reasons, has_cut = [], False
    for stack in stacks:
        path, backbone = _backbone(model, stack)
        embeddings = _embeddings(backbone)
        reason = _unfit(backbone, embeddings) or _trains(below, may_train)
        depth = 0 if reason else _frozen_depth(stack, may_train | added)
        if depth == 0:
            reasons.append(reason or _first_layer(stack, may_train))
            continue
        has_cut = True
        named = stack.layers[0].named_modules()
        yield (
            backbone,
            TrunkSpec(
                layers=stack.name.removeprefix(path),
                depth=depth,
                embeddings=str(embeddings),
                bias=next(
                    (name for name, module in named if hasattr(module, "compute_bias")), None
                ),
                relative=_is_relative(backbone),
                causal=is_causal(model),
                above=frozenset(
                    name.removeprefix(path) for name in {*may_train, *added, *pooler(model)}
                ),
            ),
        )
    if not has_cut:
        raise MethodError(f"{NAME}: needs frozen lower layers, but {reasons[0]}")


def _backbone(model: nn.Module, stack: LayerStack) -> tuple[str, nn.Module]:
    """Return the innermost transformers model around a stack, and its name with a dot."""
    from transformers import PreTrainedModel

    named = ((f"{name}." if name else "", module) for name, module in model.named_modules())
    models = [(path, module) for path, module in named if isinstance(module, PreTrainedModel)]
    return [(path, module) for path, module in models if stack.name.startswith(path)][-1]


def _embeddings(backbone: Any) -> str | None:
    """Return the name of the backbone's own child that embeds its input."""
    try:
        inner = backbone.get_input_embeddings()
    except NotImplementedError:
        return None
    return next(
        (n for n, child in backbone.named_children() if inner in set(child.modules())), None
    )


def _unfit(backbone: Any, embeddings: str | None) -> str | None:
    """Say why what a backbone reads cannot be told apart by example."""
    kind, reads = type(backbone).__name__, set(inspect.signature(backbone.forward).parameters)
    if embeddings is None or not (
        {"input_ids", "attention_mask"} <= reads or "pixel_values" in reads
    ):
        return f"{kind} reads neither tokens nor images: {_LEAVE}"
    if is_changed(backbone) or any(map(is_changed, backbone.get_submodule(embeddings).modules())):
        return f"another method changes what {kind} reads: {_LEAVE}"
    rope = getattr(backbone.config, "rope_parameters", None) or {}
    if {"dynamic", "longrope"} & {rope.get("rope_type"), *(str(v) for v in rope.values())}:
        return f"the rotary embedding of {kind} depends on the longest row so far: {_LEAVE}"
    return None


def _trains(below: list[str], may_train: Set[str]) -> str | None:
    """Say which of the parameters below the layers trains."""
    names = (name for name in below if name in may_train)
    return next((f"{name} trains: {_BESIDE}, or {_LEAVE}" for name in names), None)


def _first_layer(stack: LayerStack, may_train: Set[str]) -> str:
    """Say what is the matter with the lowest layer."""
    first, last = f"{stack.name}.0", len(stack.layers) - 1
    if any(name.startswith(f"{first}.") for name in may_train):
        return (
            f"{first} trains: restrict the methods to the top layers (freeze and bottleneck: "
            f"layers=1, lora: layers_to_transform={last}), or {_LEAVE}"
        )
    return f"another method changes {first}: restrict it to the top layers, or {_LEAVE}"


def _frozen_depth(stack: LayerStack, taken: Set[str]) -> int:
    """Count the lowest layers that no method trains or changes."""
    for index, layer in enumerate(stack.layers):
        prefix = f"{stack.name}.{index}."
        if any(name.startswith(prefix) for name in taken) or any(map(is_changed, layer.modules())):
            return index
    return len(stack.layers)


def _is_relative(backbone: nn.Module) -> bool:
    """Whether only distances between tokens count: rotary embeddings, T5's bias."""
    return any(
        hasattr(module, "relative_attention_bias") or "Rotary" in type(module).__name__
        for module in backbone.modules()
    )
