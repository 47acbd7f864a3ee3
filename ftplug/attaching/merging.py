"""Folding what was trained into a plain transformers model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.attaching.attachment import forget, require_attachment, unwrap_model
from ftplug.attaching.changing import changes_model
from ftplug.attaching.disabling import refuse_disabled
from ftplug.attaching.holders import note_merged
from ftplug.attaching.sharding import is_sharded
from ftplug.attaching.sharing_base.checking import require_shared_as_it_was
from ftplug.attaching.sharing_base.shared import kept_apart
from ftplug.base.own_config import give_back_use_cache
from ftplug.errors import MethodError
from ftplug.host import Host

if TYPE_CHECKING:
    from torch import nn


@changes_model
def merge(model: nn.Module) -> nn.Module:
    """Fold the methods of a model into its own weights, in place, and return the plain model.

    Raises :class:`MethodError`, with the model untouched, where a method adds a computation that no
    weight of the base can hold (a prefix, a bottleneck with a non-linearity). A model that shares
    its base gets a copy of it first.
    """
    inner = unwrap_model(model)
    attached = require_attachment(inner)
    refuse_disabled(inner, "merge")
    if is_sharded(inner):
        raise MethodError(
            f"{attached.host.names}: this process holds shards alone, and weights are folded in "
            "whole: save the artifact, then: ftplug merge DIR --to FOLDER"
        )
    for method in attached.host.methods:
        changes_structure = method.kind == "structure"
        if changes_structure and not attached.host.implements_for(method, "merge_model"):
            raise MethodError(
                f"{method.name}: what it adds cannot be folded into the base's weights: "
                "keep the artifact beside its base"
            )
    # What may refuse goes first: a selection has nothing to fold, and only tidies up.
    ordered = sorted(attached.host.methods, key=lambda method: method.kind != "structure")
    folding = Host(ordered)
    folding.views = attached.facts.views(attached.host)
    require_shared_as_it_was(inner, "merge")
    with kept_apart(inner):
        folding.call("merge_model", model=inner)
    forget(inner)
    note_merged(inner)
    give_back_use_cache(inner, attached.base.use_cache)
    return inner
