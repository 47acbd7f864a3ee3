"""Bottleneck adapters: train small two-layer networks between the frozen sub-layers.

Houlsby et al. 2019, https://arxiv.org/abs/1902.00751: after attention and after feed-forward.
Pfeiffer et al. 2020, https://arxiv.org/abs/2005.00052: after feed-forward alone, half the size.
He et al. 2021, https://arxiv.org/abs/2110.04366: in parallel with the feed-forward.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.inplace import wrap_forward
from ftplug.method import Migration
from ftplug.structure import (
    OutputProjections,
    linear_layers,
    require_layer_stacks,
    require_output_projections,
)
from ftplug_plugins.trunk_cache.moved import cache_moved

if TYPE_CHECKING:
    from torch import Tensor, nn

Site = tuple["nn.Module", int, Callable[..., Any]]  # module to wrap, its width, what runs around it


@dataclass(frozen=True, eq=False)
class Bottleneck(Method):
    """Add ``scaling * up(act(down(x)))`` to what the sub-layers compute; train down and up alone.

    down is (m, hidden_size) and up (hidden_size, m), both with bias; m is hidden_size divided by
    ``reduction_factor``. up starts at zero, so that step 0 equals the base model exactly, however
    down is drawn (the papers' small random up makes it nearly so); down moves from step 2 on.

    Dropout, the residual addition and a LayerNorm behind it come after the adapter. In a decoder
    cross-attention is an attention of its own and gets its own adapter.
    """

    reduction_factor: Annotated[int, Ge(1), "Hidden size divided by the adapter's width."] = 16
    placement: Annotated[
        Literal["houlsby", "pfeiffer", "parallel"],
        "After attention and feed-forward, after feed-forward, or beside feed-forward.",
    ] = "houlsby"
    non_linearity: Annotated[str, "Activation by transformers' name: relu, gelu, swish, …"] = "relu"
    layers: Annotated[
        int | None, Ge(1), "How many top layers of each stack get adapters; None: all."
    ] = None
    scaling: Annotated[float, Gt(0), "Factor on the adapter's output; He et al. use 4."] = 1.0
    original_ln_before: Annotated[
        bool, "Pfeiffer, after a LayerNorm: read what it makes of the output (seq_bn of adapters)."
    ] = False

    name: ClassVar[str] = "bottleneck"
    MIGRATIONS: ClassVar[tuple[Migration, ...]] = (cache_moved("bottleneck"),)
    paper: ClassVar[str] = "https://arxiv.org/abs/1902.00751"
    citation: ClassVar[str] = """
        @inproceedings{houlsby2019parameter,
          title     = {Parameter-Efficient Transfer Learning for {NLP}},
          author    = {Houlsby, Neil and Giurgiu, Andrei and Jastrzebski, Stanislaw
                       and Morrone, Bruna and de Laroussilhe, Quentin and Gesmundo, Andrea
                       and Attariyan, Mona and Gelly, Sylvain},
          booktitle = {International Conference on Machine Learning},
          year      = {2019}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-4, 1e-3, 1e-2)

    @hookimpl
    def prepare_model(self, model: nn.Module) -> None:
        """Give each site an adapter as its child; all sites are found before the first changes."""
        from transformers.activations import ACT2FN

        if self.non_linearity not in ACT2FN:
            raise MethodError(
                f"bottleneck: transformers has no non_linearity {self.non_linearity!r}; "
                f"it has {', '.join(sorted(ACT2FN))}"
            )
        if self.original_ln_before and self.placement != "pfeiffer":
            raise MethodError("bottleneck: original_ln_before goes with placement=pfeiffer alone")
        for module, hidden_size, around in list(self._sites(model)):
            module.add_module("adapter", self._adapter(hidden_size, beside=module))
            wrap_forward(module, functools.partial(around, scaling=self.scaling))

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select the adapters' weights and biases."""
        for path, module in model.named_modules():
            children = [name for name, _ in module.named_children()]
            if path.endswith(".adapter") and children == ["down", "non_linearity", "up"]:
                yield from (f"{path}.{name}" for name, _ in module.named_parameters())

    def _sites(self, model: nn.Module) -> Iterator[Site]:
        """Yield where adapters go, lowest layer first."""
        stacks = require_layer_stacks(model, self.name)
        deepest = max(len(stack.layers) for stack in stacks)
        if self.layers is not None and self.layers > deepest:
            raise MethodError(
                f"bottleneck: layers={self.layers}, but {type(model).__name__} has {deepest}"
            )
        for stack in stacks:
            for _, layer in stack.top(self.layers or deepest):
                projections = require_output_projections(layer, self.name)
                if self.placement == "parallel":
                    yield _feed_forward(layer, projections)
                    continue
                if self.original_ln_before:
                    yield _around_norm(layer, projections)
                    continue
                after = projections.attention if self.placement == "houlsby" else ()
                for name in (*after, projections.feed_forward):
                    yield layer.get_submodule(name), projections.hidden_size, _after

    def _adapter(self, hidden_size: int, *, beside: nn.Module) -> nn.Module:
        """Return ``up(act(down(x)))`` on the device of ``beside``, in float32 or better."""
        import torch
        from torch import nn
        from transformers.activations import ACT2FN

        width = max(1, hidden_size // self.reduction_factor)
        weight = next(itertools.chain(beside.parameters(), beside.buffers()))
        # Values are drawn on the CPU, so that a seed means the same ones for every device.
        device = weight.device if weight.is_meta else None
        adapter = nn.Sequential()
        adapter.add_module("down", down := nn.Linear(hidden_size, width, device=device))
        adapter.add_module("non_linearity", ACT2FN[self.non_linearity])
        adapter.add_module("up", up := nn.Linear(width, hidden_size, device=device))
        nn.init.constant_(down.bias, 0.1)  # a narrow relu on small outputs would start dead
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        exact = weight.dtype in (torch.float32, torch.float64)
        return adapter.to(weight.device, weight.dtype if exact else torch.float32)


def _feed_forward(layer: nn.Module, projections: OutputProjections) -> Site:
    """Return the module whose input is the feed-forward's and whose output has it added."""
    path, _, _ = projections.feed_forward.rpartition(".")
    module = layer.get_submodule(path)
    if _adds_and_normalises(module):  # BERT: dense, add, LayerNorm
        return module, projections.hidden_size, _beside_residual
    linears = linear_layers(layer)
    inside = [name for name in linears if path and name.startswith(f"{path}.")]
    begins = any(linears[name][0] == projections.hidden_size for name in inside[:-1])
    if begins and not set(inside) & set(projections.attention):
        return module, projections.hidden_size, _beside
    raise MethodError(
        f"bottleneck: the feed-forward of {type(layer).__name__} is no module of its own: "
        "use placement=pfeiffer instead of parallel"
    )


def _around_norm(layer: nn.Module, projections: OutputProjections) -> Site:
    """Return the module that projects, adds the residual and normalises, as BERT's output does."""
    path, _, _ = projections.feed_forward.rpartition(".")
    module = layer.get_submodule(path)
    if path and _adds_and_normalises(module):
        return module, projections.hidden_size, _through_norm
    raise MethodError(
        f"bottleneck: {type(layer).__name__} has no LayerNorm right after its feed-forward, as "
        "BERT has: leave original_ln_before off"
    )


def _adds_and_normalises(module: nn.Module) -> bool:
    arguments = list(inspect.signature(module.forward).parameters)
    has_norm = any(p.ndim == 1 and n.endswith("weight") for n, p in module.named_parameters())
    return arguments == ["hidden_states", "input_tensor"] and has_norm


def _after(module: nn.Module, forward: Any, *args: Any, scaling: float, **kwargs: Any) -> Any:
    """Run the adapter on what an output projection gives."""
    output = forward(*args, **kwargs)
    return _adapted(module, output, output, scaling)


def _beside(
    module: nn.Module, forward: Any, hidden_states: Tensor, *args: Any, scaling: float, **kw: Any
) -> Any:
    """Run the adapter on what a feed-forward reads."""
    return _adapted(module, hidden_states, forward(hidden_states, *args, **kw), scaling)


def _beside_residual(
    module: nn.Module, forward: Any, hidden_states: Tensor, input_tensor: Tensor, *, scaling: float
) -> Any:
    """Run the adapter on what a feed-forward reads, which here is the residual as well."""
    return forward(hidden_states, _adapted(module, input_tensor, input_tensor, scaling))


def _through_norm(
    module: nn.Module, forward: Any, hidden_states: Tensor, input_tensor: Tensor, *, scaling: float
) -> Any:
    """Run the adapter on the normalised output, and normalise the output with its update anew.

    Dropout, where it is on, differs between the two.
    """
    normalised = forward(hidden_states, input_tensor)
    return forward(hidden_states, _adapted(module, normalised, input_tensor, scaling))


def _adapted(module: nn.Module, hidden_states: Tensor, output: Tensor, scaling: float) -> Tensor:
    """Return ``output + scaling * adapter(hidden_states)`` in the dtype of ``output``."""
    adapter: Any = module.adapter
    update: Tensor = adapter(hidden_states.to(adapter.down.weight.dtype))
    return output.add(update, alpha=scaling).to(output.dtype)
