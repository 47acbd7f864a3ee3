"""The experts of a mixture of experts: by the layers that hold them, whatever they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def stacked_experts(model: nn.Module) -> list[str]:
    """Return the parameters that hold one matrix for each expert, (experts, rows, columns)."""
    return [
        f"{name}.{own}" if name else own
        for name, module in model.named_modules()
        if "expert" in name or hasattr(module, "num_experts")
        for own, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


def expert_parameters(model: nn.Module) -> list[str]:
    """Return the parameters of which a token's experts alone take part in its answer.

    Stacked ones and their biases, and those of lists of modules; not experts that all tokens share.
    """
    owners = {name.rpartition(".")[0] for name in stacked_experts(model)}
    return [
        name
        for name, _ in model.named_parameters()
        if ".experts." in name or name.rpartition(".")[0] in owners
    ]
