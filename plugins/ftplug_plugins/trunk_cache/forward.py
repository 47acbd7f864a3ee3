"""One forward of a backbone whose trunk is held in eval mode: run, or replaced by what is stored.

The model's own code runs, masks and all. Where hidden states are there already, the input
embeddings and every layer of the trunk hand them on instead of computing anything.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.inplace import unwrap_forward, wrap_forward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug_plugins.trunk_cache.trunk import Trunk

TRUNK = "_ftplug_trunk"  # on the backbone, its input embeddings and the layers of the trunk


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


def wrap(backbone: nn.Module, trunk: Trunk, around_backbone: Any) -> None:
    """Let a backbone and its trunk's modules go by what is stored."""
    modules: list[tuple[nn.Module, Any]] = [(backbone, around_backbone)]
    modules.append((backbone.get_submodule(trunk.embeddings), _around_embeddings))
    for index, layer in enumerate(layers(backbone, trunk)):
        modules.append((layer, functools.partial(_around_layer, index=index)))
    for module, around in modules:
        module.__dict__[TRUNK] = trunk
        wrap_forward(module, around)


def unwrap(model: nn.Module) -> None:
    """Take it all off again; what is stored goes with it."""
    for module in model.modules():
        if module.__dict__.pop(TRUNK, None) is not None:
            unwrap_forward(module)


def layers(backbone: Any, trunk: Trunk) -> list[Any]:
    """Return the layers of the trunk, lowest first."""
    return list(backbone.get_submodule(trunk.layers))[: trunk.depth]


def outside(backbone: Any, trunk: Trunk) -> Iterator[nn.Module]:
    """Yield the backbone and what is in it, but for its layers."""
    stack, left = backbone.get_submodule(trunk.layers), [backbone]
    while left:
        module = left.pop()
        yield module
        left += [child for child in module.children() if child is not stack]


def up_to_the_cut(backbone: Any, trunk: Trunk, forward: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """Run a batch through the trunk alone; return (batch, tokens, width) without gradient."""
    import torch

    with torch.no_grad(), trunk_in_eval_mode(backbone, trunk, ends_at_cut=True):
        try:
            forward(**batch)
        except _Reached as reached:
            return reached.hidden_states
    raise MethodError(
        f"{trunk.method}: cache=True: {type(backbone).__name__} does not run the layers of "
        f"{trunk.layers} in turn: leave cache out"
    )


@contextmanager
def trunk_in_eval_mode(
    backbone: Any,
    trunk: Trunk,
    hidden_states: Tensor | None = None,
    *,
    ends_at_cut: bool = False,
) -> Iterator[None]:
    """Hold the trunk in eval mode for one pass; what lies above it stays as it is.

    With ``hidden_states`` (batch, length, width) the trunk does not run: it hands them on.
    """
    lower = layers(backbone, trunk)
    inside = lower if hidden_states is not None else [m for y in lower for m in y.modules()]
    before = getattr(trunk.running, "now", None)
    with ExitStack() as below, in_eval_mode(inside):
        below.enter_context(in_eval_mode(outside(backbone, trunk)))
        trunk.running.now = _Pass(below, hidden_states, ends_at_cut)
        try:
            yield
        finally:
            trunk.running.now = before


@contextmanager
def in_eval_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Switch dropout off in these modules, not in those inside them."""
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _running(module: nn.Module) -> _Pass | None:
    now: _Pass | None = getattr(module.__dict__[TRUNK].running, "now", None)
    return now


def _around_embeddings(module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Hand on what is stored in place of embeddings: it has their shape."""
    now = _running(module)
    if now is None or now.hidden_states is None:
        return forward(*args, **kwargs)
    return now.hidden_states


def _around_layer(layer: nn.Module, forward: Any, *args: Any, index: int, **kwargs: Any) -> Any:
    """Hand on what is stored in place of this layer's output; end a pass at the cut."""
    now = _running(layer)
    if now is None:  # somebody calls the layer itself
        return forward(*args, **kwargs)
    now.below.close()
    if now.hidden_states is not None:
        return _stored_output(layer, now.hidden_states, args, index)
    output = forward(*args, **kwargs)
    if now.ends_at_cut and index == layer.__dict__[TRUNK].depth - 1:
        raise _Reached(output)
    return output


def _stored_output(
    layer: nn.Module, hidden_states: Tensor, args: tuple[Any, ...], index: int
) -> Any:
    """Return what the layer gives; T5's hand on a bias of the attention, which the first has."""
    name = layer.__dict__[TRUNK].bias
    if name is None:
        return hidden_states
    attention: Any = layer.get_submodule(name)
    length = hidden_states.shape[1]
    bias = args[2] if index else attention.compute_bias(length, length, hidden_states.device)
    return hidden_states, bias, None
