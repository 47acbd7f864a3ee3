"""Artifacts: the small, pinned, verifiable folder that a run leaves behind, and how it is saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.attachment import require_attachment, unwrapped
from ftplug.card import render_card
from ftplug.context import logger
from ftplug.errors import ArtifactError
from ftplug.files import FileEntry, file_entry, staged, stated
from ftplug.manifest import MANIFEST, describe, read_manifest
from ftplug.tensors import gathered_tensors, write_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS = "ftplug.safetensors"
CARD = "README.md"


def save(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    processing_class: Any = None,
    state_dict: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write the artifact of a model that carries a method; complete or not at all.

    ``training`` (data, metrics, seed, steps …) goes into manifest and card; a Trainer run's facts
    are known already. ``processing_class`` (the tokenizer) is saved with it; ``state_dict`` holds
    gathered tensors where the model's own are sharded. Returns the folder.
    """
    attached = require_attachment(model)
    inner = unwrapped(model)
    target = Path(directory)
    tensors = gathered_tensors(inner, state_dict)
    obsolete, carried = _previous(target)
    with stated(target), staged(target, last=MANIFEST, obsolete=obsolete) as stage:
        written: set[str] = set()
        for _, names in attached.host.call_each(
            "save_artifact", model=inner, directory=stage, tensors=tensors
        ):
            written |= set(names or ())
        rest = {name: tensor for name, tensor in tensors.items() if name not in written}
        if rest:
            write_tensors(rest, stage / WEIGHTS)
        if processing_class is not None:
            processing_class.save_pretrained(str(stage))
        files = {
            path.relative_to(stage).as_posix(): file_entry(path)
            for path in sorted(stage.rglob("*"))
            if path.is_file() and path.name != CARD
        }
        if processing_class is None:
            files = carried | files
        manifest = describe(inner, training=training or attached.training, files=files)
        if _may_write_card(target):
            (stage / CARD).write_text(render_card(manifest), encoding="utf-8")
        manifest.write(stage / MANIFEST)
    return target


def _previous(target: Path) -> tuple[set[str], dict[str, FileEntry]]:
    """Return an earlier artifact's weight files, which go, and its other files, which stay."""
    if not (target / MANIFEST).is_file():
        for name in ("model.safetensors", "adapter_model.safetensors", "adapter_config.json"):
            if (target / name).is_file():
                logger.warning("%s holds a %s of another run: it stays there", target, name)
        return set(), {}
    try:
        listed = read_manifest(target).files
    except ArtifactError:
        return set(), {}  # not ours to judge: it is about to be replaced
    configs = {"config.json", "generation_config.json", "adapter_config.json"}
    weights = {n for n in listed if "safetensors" in n or n in configs}
    return weights, {n: e for n, e in listed.items() if n not in weights and (target / n).is_file()}


def _may_write_card(target: Path) -> bool:
    """Whether the folder has no README, or one that ftplug or the Trainer generated."""
    card = target / CARD
    if not card.is_file():
        return True
    text = card.read_text(encoding="utf-8", errors="replace")
    return "library_name: ftplug" in text or "generated_from_trainer" in text
