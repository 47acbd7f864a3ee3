"""The Trainer's choices for its optimizer: the class, and the split by weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ftplug import MethodError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import Trainer, TrainingArguments


def trainer_optimizer(
    method: str, model: nn.Module, args: TrainingArguments
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return class and arguments of the optimizer that ``optim=`` names, for groups of our own."""
    from transformers import Trainer

    cls, options = Trainer.get_optimizer_cls_and_kwargs(args, cast("Any", model))
    name = getattr(args.optim, "value", args.optim)
    own_groups = {"params", "model", "optimizer_dict"} & set(options)
    if own_groups or not hasattr(cls, "step"):  # GaLore's and LOMO's; Muon's is a factory
        raise MethodError(f"{method}: optim={name} groups the parameters itself: use another")
    return cls, options


def weight_decay(model: nn.Module, args: TrainingArguments) -> Mapping[str, float]:
    """Return the weight decay of every parameter: the Trainer spares biases and norms."""
    from transformers import Trainer

    # A method that reads nothing of its Trainer.
    names = set(Trainer.get_decay_parameter_names(cast("Trainer", None), cast("Any", model)))
    return {
        name: args.weight_decay if name in names else 0.0 for name, _ in model.named_parameters()
    }


def require_adamw(method: str, args: TrainingArguments) -> None:
    """Refuse an ``optim=`` that a method which brings its own AdamW would silently replace."""
    name = getattr(args.optim, "value", args.optim)
    if name not in ("adamw_torch", "adamw_torch_fused"):
        raise MethodError(
            f"{method}: is an optimizer itself, so that optim={name} would have no effect: "
            "leave optim out"
        )
