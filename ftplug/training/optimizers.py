"""The optimizer of a run: a method's own or the Trainer's, and what it must hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftplug.errors import MethodError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ftplug.attaching.attachment import Attachment


def method_optimizer(
    model: nn.Module, attached: Attachment, args: TrainingArguments
) -> torch.optim.Optimizer | None:
    """Return the one optimizer that a method builds, or None; two are an error."""
    live = dict(model.named_parameters())
    named = {name: live[name] for name in attached.plan.may_train}
    answers = [
        (method.name, optimizer)
        for method, optimizer in attached.host.call_each(
            "build_optimizer", model=model, args=args, named_parameters=named
        )
        if optimizer is not None
    ]
    if len(answers) > 1:
        names = " and ".join(name for name, _ in answers)
        raise MethodError(f"{names} each build an optimizer: one run takes one of them")
    optimizer: torch.optim.Optimizer | None = answers[0][1] if answers else None
    return optimizer


def check_optimizer(
    model: nn.Module, attached: Attachment, optimizer: torch.optim.Optimizer
) -> None:
    """Every may-train tensor must be in the optimizer, or it would silently keep its value."""
    held = {id(p) for p in _parameters(optimizer)}
    held |= {id(p) for p in getattr(optimizer, "optimizer_dict", {})}
    live = dict(model.named_parameters())
    lost = [name for name in attached.plan.may_train if id(live[name]) not in held]
    if lost:
        raise MethodError(
            f"the optimizer does not hold {lost[0]} ({len(lost)} of {len(attached.plan.may_train)} "
            f"tensors of {attached.host.names} missing): it would never train"
        )


def _parameters(optimizer: Any) -> Iterator[Any]:
    """Yield what an optimizer holds; of one in DeepSpeed's config accelerate holds the place."""
    for group in getattr(optimizer, "param_groups", None) or optimizer.params:
        yield from group["params"] if isinstance(group, dict) else [group]
