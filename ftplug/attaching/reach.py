"""What of a model no update reaches or how it is shared out, where that is easily overlooked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.context import logger

if TYPE_CHECKING:
    from torch import nn

    from ftplug.attaching.plan import Plan
    from ftplug.host import Host

_EXPERTS = ".experts."


def say_what_is_out_of_reach(model: nn.Module, host: Host, plan: Plan, total: int) -> None:
    """Warn where a mixture of experts is adapted beside its experts alone.

    ``total`` is how many parameters the base has.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    experts = sum(size for name, size in sizes.items() if _EXPERTS in name)
    if not experts or any(_EXPERTS in name for name in plan.may_train):
        return
    ends = sorted({name.partition(_EXPERTS)[2] for name in sizes if _EXPERTS in name})
    whole = [f"experts.{end}" for end in ends if "." not in end]
    how = f"lora's target_parameters={','.join(whole)} reaches them" if whole else (
        "lora's target_modules reach them by name"
    )  # fmt: skip
    logger.warning(
        "%s: no expert of %s trains, %.0f %% of its weights: %s",
        host.names, type(model).__name__, 100 * experts / total, how,
    )  # fmt: skip


def towers(model: nn.Module, plan: Plan) -> dict[str, int]:
    """Return how many tensors train in each part of a model of several, by the part's name.

    Parts are the transformers models within one whose config has several; empty for any other.
    """
    from transformers import PreTrainedModel

    if not getattr(getattr(model, "config", None), "sub_configs", None):
        return {}
    inside = [n for n, m in model.named_modules() if n and isinstance(m, PreTrainedModel)]
    parts = [n for n in inside if not any(other.startswith(f"{n}.") for other in inside)]
    counts = {n: sum(name.startswith(f"{n}.") for name in plan.may_train) for n in parts}
    return counts if len(counts) > 1 else {}
