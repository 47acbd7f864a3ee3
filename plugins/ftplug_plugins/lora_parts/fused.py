"""A linear layer and its low-rank update as one autograd function.

peft's forward is three layers and two operations between them: the update, the scaled update and
the sum are tensors of the output's size, and so is each of their gradients. Here the update is
accumulated into the layer's output, and its gradient into that of the input.

Which forward a call takes hangs on what the layer is, never on which was faster when it was tried:
the two round differently, and a resumed run must take the same one. benchmarks/lora_shapes.py
measures both by shape. On a CPU, below a few hundred rows the function's own Python costs more than
it saves (0.07 ms a layer); under autocast it keeps 4 to 83 % of the bytes that peft's forward does.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.pytorch_utils import Conv1D

from ftplug_plugins.peft_bridge.files import tuner_layers

_PLAIN = (nn.Linear, Conv1D)


def fuse(model: nn.Module) -> None:
    """Let peft's LoRA layers on linear ones train as one function; they stay layers of peft."""
    for _, layer in tuner_layers(model):
        if type(layer) is LoraLinear and type(layer.base_layer) in _PLAIN:
            layer.__class__ = FusedLinear


class FusedLinear(LoraLinear):
    """peft's layer; its forward is fused where it trains one plain LoRA, and peft's elsewhere."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return (..., out_features) of (..., in_features)."""
        if args or kwargs or not _applies(self, x):
            return super().forward(x, *args, **kwargs)
        return _forward(self, x)


def _applies(layer: Any, x: Tensor) -> bool:
    """Whether this call trains one LoRA that is nothing but two matrices beside a linear layer."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or _is_transformed():
        return False
    if _has_any_global_hook():  # on every module's call
        return False
    [adapter, *others] = layer.active_adapters or [None]
    if layer.disable_adapters or layer.merged or others or adapter in layer.lora_variant:
        return False
    if adapter not in layer.lora_A or x.device.type not in ("cpu", "cuda"):
        return False
    parts = layer.base_layer, layer.lora_A[adapter], layer.lora_B[adapter]
    if not all(map(_is_plain, parts)) or parts[2].bias is not None:
        return False
    dtypes = {x.dtype, *(part.weight.dtype for part in parts)}
    if torch.is_autocast_enabled(x.device.type):
        return dtypes <= {torch.float32, torch.bfloat16, torch.float16}
    return len(dtypes) == 1


def _is_transformed() -> bool:
    """Whether ``torch.jit.trace`` or ``torch.func`` runs this: neither sees into our function."""
    return torch._C._get_tracing_state() is not None or torch._C._are_functorch_transforms_active()


def _is_plain(module: Any) -> bool:
    """Whether calling the module computes its weight's product and does nothing else.

    Else a hook, a forward or a weight of another kind (quantized, sharded, offloaded, wrapped by
    another method) has to run.
    """
    return (
        type(module) in _PLAIN
        and type(module.weight) in (nn.Parameter, Tensor)
        and "forward" not in module.__dict__
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
    )


def _forward(layer: Any, x: Tensor) -> Tensor:
    [adapter] = layer.active_adapters
    base, A, B = layer.base_layer, layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    weight = base.weight.T if type(base) is Conv1D else base.weight
    dropout = layer.lora_dropout[adapter]
    dropped = x if type(dropout) is nn.Identity else dropout(x.to(A.dtype))
    tensors: tuple[Any, ...] = (x, None if dropped is x else dropped, weight, base.bias, A, B)
    if torch.is_autocast_enabled(x.device.type):  # operations in place are not cast for us
        dtype = torch.get_autocast_dtype(x.device.type)
        tensors = tuple(t if t is None else t.to(dtype) for t in tensors)
    out: Tensor = LinearWithUpdate.apply(*tensors, layer.scaling[adapter])  # type: ignore[no-untyped-call]
    return out


class LinearWithUpdate(torch.autograd.Function):
    """``x Wᵀ + bias + scaling (z Aᵀ) Bᵀ``, where z is x, or x after dropout.

    x and z are (..., in_features), W is (out_features, in_features), A (r, in_features) and B
    (out_features, r). Beside its arguments it keeps h = A zᵀ alone, (r, rows). Products with a side
    of r are computed as (r, many): BLAS on a CPU takes up to seven times as long for (many, r).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dropped: Tensor | None, W: Tensor, bias: Tensor | None,
        A: Tensor, B: Tensor, scaling: float,
    ) -> Tensor:  # fmt: skip
        """Return (..., out_features), for one allocation of that size."""
        out = x.new_empty(*x.shape[:-1], len(W))  # no view: it may be changed in place
        if bias is None:
            torch.mm(_rows(x), W.T, out=_rows(out))
        else:
            torch.addmm(bias, _rows(x), W.T, out=_rows(out))
        h = A @ _rows(x if dropped is None else dropped).T
        _rows(out).addmm_(h.T, B.T, alpha=scaling)
        needs_x = dropped is None or ctx.needs_input_grad[2]
        ctx.save_for_backward(x if needs_x else None, dropped, W, A, B, h)
        ctx.scaling = scaling
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the arguments that need one."""
        x, dropped, W, A, B, h = ctx.saved_tensors
        to_x, to_dropped, to_W, to_bias, to_A, to_B, _ = ctx.needs_input_grad
        z = x if dropped is None else dropped
        dx = dz = dW = dbias = dA = dB = None
        with _without_autocast(z.device.type):  # as forward: all of one dtype
            if torch.is_grad_enabled():  # to be differentiated again: h depends on z and A
                h = A @ _rows(z).T
            d = _rows(gradients[0])  # (rows, out_features)
            dh = (B.T @ d.T).mul_(ctx.scaling)
            if to_x:
                dx = d @ W
                dx = (dx.addmm_(dh.T, A) if dropped is None else dx).view(z.shape)
            if to_dropped:
                dz = (dh.T @ A).view(z.shape)
            if to_W:
                dW = d.T @ _rows(x)
            if to_bias:
                dbias = d.sum(0)
            if to_A:
                dA = dh @ _rows(z)
            if to_B:
                dB = (h @ d).mul_(ctx.scaling).T.contiguous()  # as the parameter: DDP copies else
        return dx, dz, dW, dbias, dA, dB, None


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Switch autocast off, if it is on: switching takes as long as a small product."""
    on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def _rows(tensor: Tensor) -> Tensor:
    """Return (..., features) as (rows, features)."""
    return tensor.reshape(-1, tensor.shape[-1])
