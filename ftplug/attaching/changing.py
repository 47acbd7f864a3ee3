"""Changing a model: by one thread at a time, and only where what is added will have values."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import nn

_changing = threading.RLock()
_Function = TypeVar("_Function", bound=Callable[..., Any])


def changes_model(function: _Function) -> _Function:
    """Let a function that changes its first argument, a model or what has one, run alone.

    Threads wait for one another: torch's generators, which are seeded meanwhile, and its hooks for
    what is registered are the process's. What is made in ``torch.inference_mode()`` could not train
    later: it is left, unless the model was made in it.
    """

    @functools.wraps(function)
    def alone(*args: Any, **kwargs: Any) -> Any:
        import torch

        first = next(iter((*args, *kwargs.values())), None)
        with _changing:
            if not torch.is_inference_mode_enabled() or _is_for_inference(first):
                return function(*args, **kwargs)
            with torch.inference_mode(False):
                return function(*args, **kwargs)

    return alone  # type: ignore[return-value]


def _is_for_inference(given: Any) -> bool:
    """Whether a model, or that of a Trainer, was made in inference mode."""
    from torch import nn

    model = given if isinstance(given, nn.Module) else getattr(given, "model", None)
    return isinstance(model, nn.Module) and any(p.is_inference() for p in model.parameters())


def refuse_no_values(model: nn.Module, what: str) -> None:
    """Refuse to add tensors without values, or without gradients, to a model that has them."""
    import torch

    parameters = list(model.parameters())
    kind = type(model).__name__
    if torch.get_default_device().type == "meta" and not any(p.is_meta for p in parameters):
        raise MethodError(
            f"{what}: the default device is meta (torch.device('meta')), and what is added to this "
            f"{kind} would have no values: call it outside of that"
        )
    if not torch.is_inference_mode_enabled() and any(p.is_inference() for p in parameters):
        raise MethodError(
            f"{what}: this {kind} was made within torch.inference_mode(), and can have no "
            "gradients outside of it: load the base outside of that"
        )
