"""Checkpoints: what may train, under in-memory names, beside the Trainer's own state files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.attachment import require_attachment
from ftplug.errors import ArtifactError, MethodError
from ftplug.files import file_entry
from ftplug.fingerprint import Fingerprint
from ftplug.manifest import Manifest, describe, read_manifest
from ftplug.tensors import (
    check_tensors,
    copy_tensors,
    gathered_tensors,
    read_tensors,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

STATE = "ftplug_state.json"
STATE_WEIGHTS = "ftplug_state.safetensors"


def write_checkpoint(
    model: nn.Module, directory: Path, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write the two checkpoint files: the tensors that may train, and what they are."""
    weights = directory / STATE_WEIGHTS
    write_tensors(gathered_tensors(model, state_dict), weights)
    describe(model, files={STATE_WEIGHTS: file_entry(weights)}).write(directory / STATE)


def read_checkpoint(model: nn.Module, directory: Path) -> None:
    """Load a checkpoint into a prepared model, checking method, settings and tensors first."""
    attached = require_attachment(model)
    if not (directory / STATE).is_file():
        raise ArtifactError(
            f"{directory}: no {STATE}: this checkpoint was written without ftplug, "
            "or is incomplete: start anew, or resume an older one"
        )
    manifest = read_manifest(directory, STATE)
    if not attached.host.same_methods(manifest.methods):
        raise MethodError(
            f"{directory} was trained with {spelled(manifest.methods)}, but this run is "
            f"{spelled(attached.host.spec())}: use the same method and settings to resume"
        )
    if manifest.train_head != attached.train_head:
        raise MethodError(
            f"{directory} was trained with train_head={manifest.train_head}, but this run has "
            f"{attached.train_head}: use the same to resume"
        )
    require_same_base(model, manifest, directory)
    manifest.verify_files(directory)
    tensors = read_tensors(directory / STATE_WEIGHTS)
    check_tensors(model, tensors, directory)
    copy_tensors(model, tensors)


def require_same_base(model: nn.Module, manifest: Manifest, directory: Path) -> None:
    """Refuse tensors that were trained on other weights than those this model started from.

    Where every parameter is saved (full fine-tuning) the base does not matter.
    """
    attached = require_attachment(model)
    if {name for name, _ in model.named_parameters()} <= set(attached.plan.saved):
        return
    trained_on, found = manifest.fingerprint, attached.base.fingerprint
    if trained_on and found and not found.matches(trained_on):
        base = {"id": attached.base.id, "revision": attached.base.revision}
        raise ArtifactError(
            f"{directory}: trained on {named_base(manifest.base, trained_on)}, but this run is on "
            f"{named_base(base, found)}: continue on the same base"
        )


def named_base(base: Mapping[str, Any], weights: Fingerprint) -> str:
    """Return a base's id, revision and fingerprint on one line, for messages."""
    name = base.get("id") or "a base without Hub id"
    revision = f"@{base['revision'][:12]}" if base.get("revision") else ""
    return f"{name}{revision} (weights {weights})"


def spelled(spec: Sequence[Mapping[str, Any]]) -> str:
    """Return methods and settings on one line, for messages."""
    return " + ".join(
        f"{m['name']}({', '.join(f'{k}={v}' for k, v in m['settings'].items())})" for m in spec
    )
