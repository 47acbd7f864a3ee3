"""The record of peft's methods on a model: one :class:`Injection` each, in the order given.

It is kept on the model, under one attribute, so that a deepcopy has its own; a merge takes it away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_ATTRIBUTE = "_peft_injections"


@dataclass(frozen=True)
class Injection:
    """One method of peft on a model, and peft's config of it.

    ``shareable`` says whether other methods of peft may stand beside it; ``trainable`` names the
    parameters that peft let require gradients; ``literal`` is what its patterns mean
    (:mod:`ftplug_plugins.peft_bridge.literal`).
    """

    method: str
    config: Any
    shareable: bool
    trainable: tuple[str, ...]
    literal: Mapping[str, Any] = field(default_factory=dict)


def injections(model: nn.Module) -> tuple[Injection, ...]:
    """Return peft's methods on the model, in the order they were given."""
    present: tuple[Injection, ...] = model.__dict__.get(_ATTRIBUTE, ())
    return present


def record(model: nn.Module, injection: Injection) -> None:
    """Note a method that has put its layers into the model."""
    model.__dict__[_ATTRIBUTE] = (*injections(model), injection)


def forget(model: nn.Module) -> None:
    """Remove the record, and the config that peft keeps: the model is plain again."""
    model.__dict__.pop(_ATTRIBUTE, None)
    model.__dict__.pop("peft_config", None)
