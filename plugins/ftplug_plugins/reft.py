"""LoReFT: edit the hidden states of a few tokens in a low-rank subspace.

Wu et al. 2024, https://arxiv.org/abs/2404.03592.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge

from ftplug import LearningRate, Method, MethodError, hookimpl
from ftplug.inplace import wrap_forward
from ftplug.structure import (
    LayerStack,
    pretrained,
    require_layer_stacks,
    task_of,
)
from ftplug_plugins.shared.hidden_states import are_stages, width_of, with_rows
from ftplug_plugins.shared.token_positions import arguments, first_and_last

if TYPE_CHECKING:
    from torch import Tensor, nn

_POSITIONS = re.compile(r"(?=.)(?:f([1-9]\d*))?(?:(?:^|(?<=\d)\+)l([1-9]\d*))?")  # f3, l3, f3+l3


@dataclass(frozen=True, eq=False)
class Reft(Method):
    """Replace the output h of chosen layers by ``h + Rᵀ(W h + b - R h)`` at chosen tokens.

    R and W are (low_rank_dimension, hidden_size); R has orthonormal rows, b is a vector. W starts
    at R and b at zero, so that step 0 equals the base model exactly (pyreft draws W at random).

    Trained is a free matrix V, and R is what Gram and Schmidt make of its rows. R does not depend
    on V's length, so that weight decay cannot turn the method off, as it does with the Householder
    parametrization of pyreft and adapters.

    Tokens are counted without padding. Of an encoder-decoder the encoder's layers are edited. A
    language model is edited at its first tokens or all: where a prompt ends no layer can know.
    """

    low_rank_dimension: Annotated[int, Ge(1), "Rank of the edit: rows of R."] = 4
    positions: Annotated[
        str, "Tokens to edit: the first and last n as f3+l3, f3 or l3, or all of them."
    ] = "f3"
    layers: Annotated[
        tuple[Annotated[int, Ge(0)], ...], "Layers to edit, 0 the lowest; empty: all."
    ] = ()

    name: ClassVar[str] = "reft"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.03592"
    citation: ClassVar[str] = """
        @inproceedings{wu2024reft,
          title     = {{ReFT}: Representation Finetuning for Language Models},
          author    = {Wu, Zhengxuan and Arora, Aryaman and Wang, Zheng and Geiger, Atticus
                       and Jurafsky, Dan and Manning, Christopher D. and Potts, Christopher},
          booktitle = {Advances in Neural Information Processing Systems},
          year      = {2024}
        }
    """
    learning_rate: ClassVar[LearningRate] = LearningRate(1e-4, 3e-3, 1e-2)
    relies_on_internals: ClassVar[bool] = True
    starts_at_base: ClassVar[bool] = True

    def first_and_last(self) -> tuple[int, int] | None:
        """Return how many first and how many last tokens are edited; None: all."""
        if counts := _POSITIONS.fullmatch(self.positions):
            return int(counts[1] or 0), int(counts[2] or 0)
        if self.positions == "all":
            return None
        raise MethodError(
            f"reft: positions={self.positions!r}: write f3 (the first three), l3, f3+l3, or all"
        )

    @hookimpl
    def prepare_model(self, model: nn.Module) -> None:
        """Give each chosen layer an edit of its own."""
        counts = self.first_and_last()
        if counts and counts[1] and task_of(pretrained(model)) == "text-generation":
            raise MethodError(
                f"reft: positions={self.positions}: the end of a prompt is not where the training "
                "text ends: use the first tokens (f3) or all with a language model"
            )
        around = partial(_around, counts=counts)  # one for all: a class of layers stays one
        for stack in self._stacks(model):
            for index in self.layers or range(len(stack.layers)):
                layer = stack.layers[index]
                reft = self._edit(width_of(model, layer), beside=layer)
                reft.index = index
                layer.add_module("reft", reft)
                wrap_forward(layer, around)

    @hookimpl
    def select_trainable(self, model: nn.Module) -> Iterable[str]:
        """Select V, W and b of every edit."""
        for path, module in model.named_modules():
            if path.endswith("prefix_encoder"):
                raise MethodError(
                    "reft: counts tokens from the start of the cache, where a prefix stands: "
                    "leave one of the two out"
                )
            if path.endswith(".reft"):
                yield from (f"{path}.{name}" for name, _ in module.named_parameters())

    def _stacks(self, model: nn.Module) -> list[LayerStack]:
        """Return the stacks to edit, all chosen layers checked."""
        stacks = require_layer_stacks(model, self.name)
        stacks = stacks[:1] if pretrained(model).config.is_encoder_decoder else stacks
        if self.first_and_last():
            stacks = with_rows(stacks, model)
        for stack in stacks:
            if are_stages(model, stack):
                raise MethodError(
                    f"reft: {stack.name} of {type(model).__name__} are stages, each with layers "
                    "and a width of its own: use lora"
                )
            if wrong := [index for index in self.layers if index >= len(stack.layers)]:
                raise MethodError(
                    f"reft: there is no layer {wrong[0]} in {stack.name}: it has "
                    f"{len(stack.layers)}, counted from 0"
                )
        return stacks

    def _edit(self, width: int, *, beside: nn.Module) -> Any:
        """Return V, W and b on the device of ``beside``, in float32 or better."""
        import torch
        from torch import nn

        if self.low_rank_dimension > width:
            raise MethodError(
                f"reft: low_rank_dimension={self.low_rank_dimension} exceeds the layer's width, "
                f"{width}"
            )
        weight = next(beside.parameters())
        exact = weight.dtype in (torch.float32, torch.float64)
        options: Any = {
            "device": weight.device,
            "dtype": weight.dtype if exact else torch.float32,
        }
        reft = nn.Module()
        reft.rotation = nn.Parameter(torch.empty(self.low_rank_dimension, width, **options))
        nn.init.orthogonal_(reft.rotation)
        reft.learned_source = nn.Linear(width, self.low_rank_dimension, **options)
        nn.init.zeros_(reft.learned_source.bias)
        with torch.no_grad():
            reft.learned_source.weight.copy_(orthonormal(reft.rotation))
        return reft


def orthonormal(rows: Tensor) -> Tensor:
    """Return Gram and Schmidt's orthonormal basis of the rows of a (rank, width) matrix.

    With ``V Vᵀ = L Lᵀ`` (Cholesky) it is ``L⁻¹ V``; L's diagonal is positive, so that it changes
    smoothly with V.
    """
    import torch

    # Autocast would round the products; a meta device has none.
    with nullcontext() if rows.is_meta else torch.autocast(rows.device.type, enabled=False):
        lower = torch.linalg.cholesky(rows @ rows.T)
        basis: Tensor = torch.linalg.solve_triangular(lower, rows, upper=False)
    return basis


def edit(reft: Any, hidden_states: Tensor) -> Tensor:
    """Return ``Rᵀ(W h + b - R h)`` for hidden states (…, width), in their own dtype.

    Computed in float32 or better, also where somebody has cast the whole model to half precision,
    in which torch has no Cholesky decomposition.
    """
    import torch
    from torch.nn.functional import linear

    source, wide = reft.learned_source, torch.promote_types(reft.rotation.dtype, torch.float32)
    rotation = orthonormal(reft.rotation.to(wide))  # R: (rank, width)
    # At the start W - R is zero exactly.
    difference, bias = source.weight.to(wide) - rotation, source.bias.to(wide)
    update = linear(hidden_states.to(wide), difference, bias) @ rotation
    return update.to(hidden_states.dtype)


def _around(
    layer: Any,
    forward: Any,
    *args: Any,
    counts: tuple[int, int] | None,
    **kwargs: Any,
) -> Any:
    """Run the layer and edit the hidden states it gives, alone or first in a tuple."""
    if counts:  # before the layer adds to the cache
        given = arguments(layer, args, kwargs)
        _require_tokens(layer, next(iter(given.values())), counts)
        places, there = first_and_last(given, layer.reft.index, *counts)
    output = forward(*args, **kwargs)
    alone = not isinstance(output, tuple | list)
    h = output if alone else output[0]  # (batch, length, width)
    _require_tokens(layer, h, counts)
    if counts:
        at = places[..., None].expand(-1, -1, h.shape[-1])
        h = h.scatter_add(1, at, edit(layer.reft, h.gather(1, at)) * there[..., None])
    else:
        h = h + edit(layer.reft, h)
    return h if alone else type(output)((h, *output[1:]))


def _require_tokens(layer: Any, h: Tensor, counts: tuple[int, int] | None) -> None:
    """Refuse hidden states that are no (batch, length, width); (…, width) where all are edited."""
    width = layer.reft.rotation.shape[1]
    if h.shape[-1] != width or (counts and h.ndim != 3):
        form = "(batch, length, width)" if counts else "(…, width)"
        raise MethodError(
            f"reft: the hidden states of {type(layer).__name__} are {tuple(h.shape)}, not {form} "
            f"of width {width}: use lora"
        )
