"""Reentrant activation checkpointing beside a frozen trunk: gradients must not end on the way.

With ``use_reentrant=True`` torch differentiates a layer again only if its *input* needs a gradient.
Where embeddings are frozen it does not, and everything that trains in that layer would silently
stay as it is. transformers cures that for models that read tokens, not for those that read images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import nn

_FUNCTION = "_gradient_checkpointing_func"  # transformers': what a layer is run through


def keep_gradients(model: nn.Module) -> None:
    """Let the inputs of all layers that are checkpointed reentrantly need a gradient.

    Called once checkpointing is switched on; calling it again changes nothing.
    """
    for module in model.modules():
        function = getattr(module, _FUNCTION, None)
        if isinstance(function, functools.partial) and function.keywords.get("use_reentrant"):
            setattr(module, _FUNCTION, functools.partial(_with_gradient, function))


def give_back(model: nn.Module) -> None:
    """Take that off again: layers are run through what transformers gave them."""
    for module in model.modules():
        function = getattr(module, _FUNCTION, None)
        if isinstance(function, functools.partial) and function.func is _with_gradient:
            setattr(module, _FUNCTION, function.args[0])


def _with_gradient(checkpoint: Callable[..., Any], function: Any, *args: Any) -> Any:
    """Run ``checkpoint(function, *args)``; a frozen layer's output then needs a gradient too."""
    import torch

    inputs = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
    if not torch.is_grad_enabled() or any(tensor.requires_grad for tensor in inputs):
        return checkpoint(function, *args)
    if not inputs:
        raise MethodError(
            "use_reentrant=True drops the gradients of this model's layers, which are called by "
            "keyword: set activation_checkpointing_kwargs={'use_reentrant': False}"
        )
    inputs[0].requires_grad_()
    return checkpoint(function, *args)
