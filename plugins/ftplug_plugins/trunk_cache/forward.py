"""One forward of a backbone whose trunk is held in eval mode: run, or replaced by what is stored.

The model's own code runs, masks and all. Where hidden states are there already, the input
embeddings and every layer of the trunk hand them on instead of computing anything.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.inplace import in_eval_mode, unwrap_forward, wrap_forward
from ftplug.structure import bias_has_mask
from ftplug_plugins.trunk_cache.cut import NAME, TrunkSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

_RUNNING = "_ftplug_trunk_running"  # on the backbone, its input embeddings and the trunk's layers


class _Reached(Exception):
    """The cut: what lies above it has nothing to do in this pass."""

    def __init__(self, output: Any) -> None:
        self.hidden_states: Tensor = output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class _Pass:
    """What the embeddings and layers find out about the forward they are part of."""

    below: ExitStack  # what keeps all but the layers in eval mode, until the layers are reached
    hidden_states: Tensor | None
    ends_at_cut: bool


class _Running(threading.local):
    """The pass under way in a trunk, each thread's own; a copy of the model has one of its own."""

    now: _Pass | None = None

    def __init__(self, spec: TrunkSpec) -> None:
        self.spec = spec

    def __reduce__(self) -> tuple[Any, tuple[TrunkSpec]]:
        return _Running, (self.spec,)


def wrap(backbone: nn.Module, spec: TrunkSpec, around_backbone: Any) -> None:
    """Let a backbone and its trunk's modules go by what is stored."""
    modules: list[tuple[nn.Module, Any]] = [(backbone, around_backbone)]
    modules.append((backbone.get_submodule(spec.embeddings), _around_embeddings))
    for index, layer in enumerate(layers(backbone, spec)):
        modules.append((layer, functools.partial(_around_layer, index=index)))
    running = _Running(spec)
    for module, around in modules:
        module.__dict__[_RUNNING] = running
        wrap_forward(module, around)


def remove_cache(model: nn.Module) -> None:
    """Take it all off again."""
    for module in model.modules():
        if module.__dict__.pop(_RUNNING, None) is not None:
            unwrap_forward(module)


def layers(backbone: Any, spec: TrunkSpec) -> list[Any]:
    """Return the layers of the trunk, lowest first."""
    return list(backbone.get_submodule(spec.layers))[: spec.depth]


def outside(backbone: Any, spec: TrunkSpec) -> Iterator[nn.Module]:
    """Yield the backbone and what is in it, but for its layers."""
    stack, left = backbone.get_submodule(spec.layers), [backbone]
    while left:
        module = left.pop()
        yield module
        left += [child for child in module.children() if child is not stack]


def up_to_the_cut(
    backbone: Any, spec: TrunkSpec, forward: Any, batch: Mapping[str, Tensor]
) -> Tensor:
    """Run a batch through the trunk alone; return (batch, tokens, width) without gradient."""
    import torch

    with torch.no_grad(), trunk_in_eval_mode(backbone, spec, ends_at_cut=True):
        try:
            forward(**batch)
        except _Reached as reached:
            return reached.hidden_states
    raise MethodError(
        f"{NAME}: {type(backbone).__name__} does not run the layers of {spec.layers} in turn: "
        "leave it out"
    )


@contextmanager
def trunk_in_eval_mode(
    backbone: Any,
    spec: TrunkSpec,
    hidden_states: Tensor | None = None,
    *,
    ends_at_cut: bool = False,
) -> Iterator[None]:
    """Hold the trunk in eval mode for one pass; what lies above it stays as it is.

    With ``hidden_states`` (batch, length, width) the trunk does not run: it hands them on.
    """
    lower, running = layers(backbone, spec), backbone.__dict__[_RUNNING]
    inside = lower if hidden_states is not None else [m for y in lower for m in y.modules()]
    before = running.now
    with ExitStack() as below, in_eval_mode(inside):
        below.enter_context(in_eval_mode(outside(backbone, spec)))
        running.now = _Pass(below, hidden_states, ends_at_cut)
        try:
            yield
        finally:
            running.now = before


def _around_embeddings(module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Hand on what is stored in place of embeddings: it has their shape."""
    now = module.__dict__[_RUNNING].now
    if now is None or now.hidden_states is None:
        return forward(*args, **kwargs)
    return now.hidden_states


def _around_layer(layer: nn.Module, forward: Any, *args: Any, index: int, **kwargs: Any) -> Any:
    """Hand on what is stored in place of this layer's output; end a pass at the cut."""
    running: _Running = layer.__dict__[_RUNNING]
    now = running.now
    if now is None:  # somebody calls the layer itself
        return forward(*args, **kwargs)
    now.below.close()
    if now.hidden_states is not None:
        return _stored_output(layer, running.spec, now.hidden_states, args, index)
    output = forward(*args, **kwargs)
    if now.ends_at_cut and index == running.spec.depth - 1:
        raise _Reached(output)
    return output


def _stored_output(
    layer: nn.Module, spec: TrunkSpec, hidden_states: Tensor, args: tuple[Any, ...], index: int
) -> Any:
    """Return what the layer gives; T5's hand on a bias of the attention, which the first has."""
    if spec.bias is None:
        return hidden_states
    attention: Any = layer.get_submodule(spec.bias)
    if index:
        return hidden_states, args[2], None
    length = hidden_states.shape[1]
    bias = attention.compute_bias(length, length, hidden_states.device)
    mask = args[1] if bias_has_mask(attention) else None
    return hidden_states, bias if mask is None else bias + mask, None
