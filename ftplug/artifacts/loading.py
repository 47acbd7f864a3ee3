"""Loading an artifact: everything is checked before the caller's model is touched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug import discovery, structure
from ftplug.artifacts.base_model import base_fingerprint, base_model
from ftplug.artifacts.checkpoint import STATE, STATE_WEIGHTS, named_base, require_same_base, spelled
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.registries import artifact_folder, registries, registry
from ftplug.artifacts.saving import take_over_saving
from ftplug.artifacts.tensors import check_tensors, copy_tensors
from ftplug.attaching.attachment import Attachment, attachment_of, prepare, require_attachment
from ftplug.base.inspecting import base_identity
from ftplug.context import WEIGHTS, Context, logger, read_tensors
from ftplug.errors import (
    ArtifactError,
    MethodError,
    MissingMethodError,
    PluginError,
    one_line,
)
from ftplug.structure import weightless_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.method import Method


def load(
    base: nn.Module | str | os.PathLike[str],
    artifact: str | os.PathLike[str],
    *,
    revision: str | None = None,
    force: bool = False,
    allow_pickle: bool = False,
) -> nn.Module:
    """Put an artifact on its base model, in place, and return the model.

    ``base`` is a model, or an id or folder from which the artifact's model class is loaded with its
    labels. ``artifact`` is a folder, or a repository ``org/name`` of which the branch, tag or
    commit ``revision`` is pulled and verified. Everything is checked first, on file headers and on
    a weightless copy of the model: where anything is wrong an :class:`ArtifactError` or
    :class:`RegistryError` is raised and the model is untouched. ``force=True`` loads onto a base
    whose weights differ from those the artifact was trained on.

    A PEFT adapter that ftplug did not make has no manifest: that is warned about, and the model is
    wrapped as ``PeftModel.from_pretrained`` does; ``allow_pickle=True`` accepts pickled weights.
    """
    import torch
    from torch import nn

    if not isinstance(base, nn.Module | str | os.PathLike):
        raise ArtifactError(f"load: the base is a model, an id or a folder, not {base!r}")
    if not isinstance(artifact, str | os.PathLike):
        raise ArtifactError(f"load: the artifact is a folder or org/name, not {artifact!r}")
    directory = artifact_folder(artifact, revision, allow_pickle=allow_pickle)
    if is_plain(directory):
        return registry().load_plain(base, directory, allow_pickle=allow_pickle)
    manifest, read = _opened(directory)
    methods = methods_of(manifest, directory)  # before a base is read, which takes long
    model = base if isinstance(base, nn.Module) else base_model(base, manifest, directory)
    if (attachment := attachment_of(model)) is not None:
        raise ArtifactError(
            f"{directory}: the model already carries {attachment.host.names}: load a base"
        )
    _check_base(model, manifest, directory, force=force)
    context = Context(
        seed=0,
        task=structure.task_of(model),
        model_class=type(model).__name__,
        loading=True,
    )
    rehearsal = weightless_copy(model)
    try:
        with torch.device("meta"):
            plan = _prepared(rehearsal, methods, context, manifest, directory).plan
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # settings no layer takes
        raise ArtifactError(f"{directory}: does not fit this base: {one_line(error)}") from error
    tensors = read(rehearsal)
    check_tensors(rehearsal, plan, tensors, directory)
    attached = _prepared(model, methods, context, manifest, directory)
    copy_tensors(model, attached.plan, tensors)
    model.eval()
    return model


def continue_from(model: nn.Module, artifact: str | os.PathLike[str]) -> None:
    """Give a model that carries a method the values of an artifact of the same method."""
    directory = artifact_folder(artifact)
    manifest, read = _opened(directory)
    attached = require_attachment(model)
    if not attached.host.same_methods(manifest.methods):
        raise MethodError(
            f"{directory} was made with {spelled(manifest.methods)}, but this run is "
            f"{spelled(attached.host.spec())}: use the same method and settings to continue"
        )
    require_same_base(model, manifest, directory)
    tensors = read(model)
    check_tensors(model, attached.plan, tensors, directory)
    copy_tensors(model, attached.plan, tensors)


def manifest_of(directory: Path) -> Manifest:
    """Return the manifest of an artifact, or the description of a training checkpoint."""
    is_checkpoint = not (directory / MANIFEST).is_file() and (directory / STATE).is_file()
    return read_manifest(directory, STATE if is_checkpoint else MANIFEST)


def is_plain(directory: Path) -> bool:
    """Whether a folder is an adapter that ftplug did not make, and the registry can read."""
    ours = any((directory / name).is_file() for name in (MANIFEST, STATE))
    return not ours and any(known.is_plain(directory) for known in registries())


def _opened(directory: Path) -> tuple[Manifest, Callable[[nn.Module], dict[str, Tensor]]]:
    """Return manifest and reader of an artifact, or of a training checkpoint."""
    manifest = manifest_of(directory)
    manifest.verify_files(directory)
    if STATE_WEIGHTS in manifest.files:
        return manifest, lambda model: read_tensors(directory / STATE_WEIGHTS)
    return manifest, lambda model: _artifact_tensors(model, directory, manifest)


def _artifact_tensors(model: nn.Module, directory: Path, manifest: Manifest) -> dict[str, Tensor]:
    """Read the tensors from a view of the folder that has the verified files alone."""
    attached = require_attachment(model)
    tensors: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory(prefix="ftplug-") as folder:
        view = Path(folder)
        for name in manifest.files:
            (view / name).parent.mkdir(parents=True, exist_ok=True)
            (view / name).symlink_to((directory / name).resolve())
        try:
            for _, loaded in attached.host.call_each("load_artifact", model=model, directory=view):
                tensors |= dict(loaded or {})
            if WEIGHTS in manifest.files:
                tensors |= read_tensors(view / WEIGHTS)
        except ArtifactError as error:  # name the folder the user knows
            raise ArtifactError(str(error).replace(folder, str(directory))) from error
    return tensors


def _check_base(model: nn.Module, manifest: Manifest, directory: Path, *, force: bool) -> None:
    """Refuse another architecture and, unless forced, other weights."""
    expected = manifest.model.get("class")
    if expected != type(model).__name__:
        raise ArtifactError(
            f"{directory}: trained on a {expected}, but the base is a {type(model).__name__}"
        )
    trained_on, found = manifest.fingerprint, base_fingerprint(model, manifest)
    if trained_on is None or found is None:
        logger.warning("%s: no weight fingerprint: pinned by id and sha alone", directory)
    elif not found.matches(trained_on) and not force:
        raise ArtifactError(
            f"{directory}: trained on {named_base(manifest.base, trained_on)}, but this base is "
            f"{named_base(base_identity(model), found)}: load that base, or force=True"
        )
    config, labels = structure.pretrained(model).config, manifest.model.get("labels")
    if labels and labels != {str(k): str(v) for k, v in (config.id2label or {}).items()}:
        logger.warning("%s was trained for the labels %s: this model has others", directory, labels)


def methods_of(manifest: Manifest, directory: Path) -> list[Method]:
    """Return the configured methods of an artifact; a missing plugin is named with its version.

    What trains nothing is left out.
    """
    methods: list[Method] = []
    for entry in manifest.methods:
        try:
            if not (cls := discovery.entry(entry["name"]).load()).transient:
                methods.append(cls.configure(entry["settings"]))
        except PluginError as error:
            where = f"{entry.get('distribution')} {entry.get('version')}"
            raise MissingMethodError(
                f"{directory} needs method {entry['name']!r} from {where}: pip install "
                f"{entry.get('distribution')}=={entry.get('version')} ({error})"
            ) from error
        except MethodError as error:
            raise ArtifactError(f"{directory}: {error}") from error
    if not methods:
        raise ArtifactError(f"{directory}: {manifest.method_names} trains nothing: no artifact")
    return methods


def _prepared(
    model: nn.Module, methods: list[Method], context: Context, manifest: Manifest, directory: Path
) -> Attachment:
    try:
        fresh = manifest.base.get("fresh", [])
        attached = prepare(model, methods, context, train_head=manifest.train_head, fresh=fresh)
    except MethodError as error:
        raise ArtifactError(f"{directory}: does not fit this base: {error}") from error
    take_over_saving(model)
    return attached
