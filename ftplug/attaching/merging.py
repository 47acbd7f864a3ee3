"""Folding what was trained into a plain transformers model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.attaching.attachment import forget, require_attachment, unwrap_model
from ftplug.attaching.sharding import is_sharded
from ftplug.errors import ArtifactError, MethodError
from ftplug.host import Host

if TYPE_CHECKING:
    from torch import nn

    from ftplug.artifacts.manifest import Manifest


def merge(model: nn.Module) -> nn.Module:
    """Fold the methods of a model into its own weights, in place, and return the plain model.

    Raises :class:`MethodError`, with the model untouched, where a method adds a computation that no
    weight of the base can hold (a prefix, a bottleneck with a non-linearity).
    """
    inner = unwrap_model(model)
    attached = require_attachment(inner)
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
    folding.call("merge_model", model=inner)
    forget(inner)
    return inner


def merge_artifact(
    artifact: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Path:
    """Write a plain transformers model: the base with the artifact folded in, and its tokenizer.

    ``artifact`` is a folder or ``org/name`` (of which ``revision`` is pulled), ``base`` is where
    the base lies if not under the id that the artifact names. The folder ``to`` appears complete or
    not at all; ``from_pretrained`` reads it without ftplug. Raises :class:`MethodError` where the
    method cannot be folded, :class:`ArtifactError` where artifact or base are not sound.
    """
    from ftplug.artifacts.loading import load, manifest_of
    from ftplug.artifacts.registries import artifact_folder
    from ftplug.files.staged import staged, stated

    target = Path(to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ArtifactError(f"{target} exists already: choose another folder")
    directory = artifact_folder(artifact, revision)
    manifest = manifest_of(directory)
    where = base or manifest.base["id"]
    if where is None:
        raise ArtifactError(f"{directory}: its base has no Hub id: name its folder with --base")
    model: Any = merge(load(where, directory))
    with stated(target), staged(target, last="config.json") as stage:
        model.save_pretrained(stage)
        for name in _beside(manifest):
            if not (stage / name).exists():
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(directory / name, stage / name)
    return target


def _beside(manifest: Manifest) -> list[str]:
    """Return the artifact's files that belong to the model rather than to the method."""
    of_method = ("ftplug.safetensors", "adapter_model.safetensors", "adapter_config.json")
    return [name for name in manifest.files if name not in of_method]
