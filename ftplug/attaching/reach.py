"""What of a model no update reaches or how it is shared out, where that is easily overlooked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from ftplug.context import logger
from ftplug.structure import expert_parameters, stacked_experts
from ftplug.structure.shards import numel_of

if TYPE_CHECKING:
    from torch import nn

    from ftplug.attaching.plan import Plan
    from ftplug.host import Host


def say_what_is_reached(model: nn.Module, host: Host, plan: Plan, total: int) -> None:
    """Warn of experts that no update reaches, and of several parts of a model that all train.

    ``total`` is how many parameters the base has.
    """
    kind = type(model).__name__
    experts = expert_parameters(model)
    owners = {f"{name.replace('.base_layer', '').rpartition('.')[0]}." for name in experts}
    if experts and not any(name.startswith(tuple(owners)) for name in plan.may_train):
        sizes = {name: numel_of(parameter) for name, parameter in model.named_parameters()}
        share = 100 * sum(sizes[name] for name in experts) / total
        stacked = bool(stacked_experts(model))
        how = f"target_{'parameters=all-experts' if stacked else 'modules=all-linear'}"
        logger.warning(
            "%s: no expert of %s trains, %.0f %% of its weights: lora's %s reaches them",
            *(host.names, kind, share, how),
        )
    parts = {part: count for part, count in towers(model, plan).items() if count}
    if len(parts) > 1 and len(plan.may_train) < sum(1 for _ in model.parameters()):
        counts = ", ".join(f"{count} tensors in {part}" for part, count in parts.items())
        logger.warning("%s on %s trains %s", host.names, kind, counts)


def say_what_was_frozen(
    host: Host, plan: Plan, frozen: Mapping[str, int], head: Collection[str]
) -> None:
    """Warn where the methods train what a script had frozen: its ``requires_grad=False`` is gone.

    ``frozen`` are the sizes of those parameters by the names they had, ``head`` those of the head.
    """
    existing = set(plan.existing.values())
    trained = [name for name in frozen if name in existing]
    if not trained:
        return
    if set(trained) <= set(head):
        how = "train_head=False (--no-train-head) leaves the head as it is"
    else:
        how = "freeze trains a part (layers=, or train= and patterns of names)"
    logger.warning(
        "%s: trains %d tensors (%s parameters) that were frozen (requires_grad=False), %s and so "
        "on: ftplug alone chooses what trains; %s",
        host.names, len(trained), f"{sum(frozen[name] for name in trained):,}", trained[0], how,
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
