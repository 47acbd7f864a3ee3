"""Parts of a model held in eval mode: without dropout, even while the model trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftplug.inplace import in_eval_mode, unwrap_forward, wrap_forward, wraps

if TYPE_CHECKING:
    from torch import nn


def hold_in_eval_mode(part: nn.Module) -> None:
    """Let a part run without dropout, whatever mode it is in."""
    wrap_forward(part, _held)


def let_go(model: nn.Module) -> None:
    """Take that off all parts of a model on which nothing came later."""
    for module in model.modules():
        if wraps(module)[:1] == [_held]:
            unwrap_forward(module)


def is_changed(module: nn.Module) -> bool:
    """Whether a wrapped forward makes the module compute something else than in eval mode."""
    return any(around is not _held for around in wraps(module))


def _held(part: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    with in_eval_mode(part.modules()):
        return forward(*args, **kwargs)
