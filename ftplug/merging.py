"""Folding what was trained into a plain transformers model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.attachment import detach, require_attachment, unwrapped
from ftplug.errors import MethodError

if TYPE_CHECKING:
    from torch import nn


def merge(model: nn.Module) -> nn.Module:
    """Fold the methods of a model into its own weights, in place, and return the plain model.

    Raises :class:`MethodError`, with the model untouched, where a method adds a computation that no
    weight of the base can hold (a prefix, a bottleneck with a non-linearity).
    """
    inner = unwrapped(model)
    attached = require_attachment(inner)
    for method in attached.host.methods:
        changes_structure = method.kind == "structure"
        if changes_structure and not attached.host.implements_for(method, "merge_model"):
            raise MethodError(
                f"{method.name}: what it adds cannot be folded into the base's weights: "
                "keep the artifact beside its base"
            )
    attached.host.call("merge_model", model=inner)
    detach(inner)
    return inner
