"""Artifacts: the small, pinned, verifiable folder a run leaves behind; ``save`` and ``load``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import discovery, structure
from ftplug.attachment import attachment_of, prepare, require_attachment, unwrapped
from ftplug.base import inspect_base
from ftplug.card import render_card
from ftplug.checkpoint import STATE, STATE_WEIGHTS, spelled
from ftplug.context import Context, logger
from ftplug.errors import ArtifactError, MethodError, PluginError
from ftplug.files import file_entry, staged, stated
from ftplug.fingerprint import Fingerprint, fingerprint
from ftplug.manifest import MANIFEST, Manifest, describe, read_manifest
from ftplug.tensors import (
    check_tensors,
    copy_tensors,
    gathered_tensors,
    one_line,
    read_tensors,
    weightless_copy,
    write_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.method import Method

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
    with stated(target), staged(target, last=MANIFEST) as stage:
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
        manifest = describe(inner, training=training or attached.training, files=files)
        (stage / CARD).write_text(render_card(manifest), encoding="utf-8")
        manifest.write(stage / MANIFEST)
        _remove_previous(target, keep=files)
    return target


def _remove_previous(target: Path, keep: Mapping[str, Any]) -> None:
    """Remove an earlier artifact's files that this one lacks, its manifest first."""
    if not (target / MANIFEST).is_file():
        return
    try:
        listed = read_manifest(target).files
    except ArtifactError:
        listed = {}  # not ours to judge: it is about to be replaced
    (target / MANIFEST).unlink()
    for name in set(listed) - set(keep):
        (target / name).unlink(missing_ok=True)


def load(
    base: nn.Module | str | os.PathLike[str],
    artifact: str | os.PathLike[str],
    *,
    force: bool = False,
) -> nn.Module:
    """Put a saved artifact on its base model, in place, and return the model.

    ``base`` is a model, or an id or folder from which the artifact's model class is loaded with its
    labels. Everything is checked first, on file headers and on a weightless copy of the model:
    where anything is wrong an :class:`ArtifactError` is raised and the model is untouched.
    ``force=True`` loads onto a base whose weights differ from those the artifact was trained on.
    """
    from torch import nn

    if not isinstance(base, nn.Module | str | os.PathLike):
        raise ArtifactError(f"load: the base is a model, an id or a folder, not {base!r}")
    if not isinstance(artifact, str | os.PathLike):
        raise ArtifactError(f"load: the artifact is a folder, not {artifact!r}")
    directory = Path(artifact)
    manifest, read = _opened(directory)
    model = base if isinstance(base, nn.Module) else _base_model(base, manifest, directory)
    if (found := attachment_of(model)) is not None:
        raise ArtifactError(
            f"{directory}: the model already carries {found.host.names}: load a base"
        )
    _check_base(model, manifest, directory, force=force)
    methods = methods_of(manifest, directory)
    context = Context(
        seed=0,
        task=structure.task_of(model),
        model_class=type(model).__name__,
        loading=True,
    )
    rehearsal = weightless_copy(model)
    _prepared(rehearsal, methods, context, manifest, directory)
    tensors = read(rehearsal)
    check_tensors(rehearsal, tensors, directory)
    _prepared(model, methods, context, manifest, directory)
    copy_tensors(model, tensors)
    model.eval()
    return model


def continue_from(model: nn.Module, artifact: str | os.PathLike[str]) -> None:
    """Give a model that carries a method the values of an artifact of the same method."""
    directory = Path(artifact)
    manifest, read = _opened(directory)
    attached = require_attachment(model)
    if not attached.host.same_methods(manifest.methods):
        raise MethodError(
            f"{directory} was made with {spelled(manifest.methods)}, but this run is "
            f"{spelled(attached.host.spec())}: use the same method and settings to continue"
        )
    trained_on, found = manifest.fingerprint, attached.base.fingerprint
    if trained_on and found and not found.matches(trained_on):
        base = {"id": attached.base.id, "revision": attached.base.revision}
        raise ArtifactError(
            f"{directory}: trained on {_named(manifest.base, trained_on)}, but this base is "
            f"{_named(base, found)}: continue on the same base"
        )
    tensors = read(model)
    check_tensors(model, tensors, directory)
    copy_tensors(model, tensors)


def manifest_of(directory: Path) -> Manifest:
    """Return the manifest of an artifact, or the description of a training checkpoint."""
    is_checkpoint = not (directory / MANIFEST).is_file() and (directory / STATE).is_file()
    return read_manifest(directory, STATE if is_checkpoint else MANIFEST)


def _opened(directory: Path) -> tuple[Manifest, Callable[[nn.Module], dict[str, Tensor]]]:
    """Return manifest and reader of an artifact, or of a training checkpoint."""
    manifest = manifest_of(directory)
    manifest.verify_files(directory)
    if STATE_WEIGHTS in manifest.files:
        return manifest, lambda model: read_tensors(directory / STATE_WEIGHTS)
    return manifest, lambda model: _artifact_tensors(model, directory)


def _artifact_tensors(model: nn.Module, directory: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    attached = require_attachment(model)
    for _, loaded in attached.host.call_each("load_artifact", model=model, directory=directory):
        tensors |= dict(loaded or {})
    if (directory / WEIGHTS).is_file():
        tensors |= read_tensors(directory / WEIGHTS)
    return tensors


def _base_model(base: str | os.PathLike[str], manifest: Manifest, directory: Path) -> nn.Module:
    """Load the artifact's model class, with its labels, from a base id or folder."""
    import transformers

    cls = getattr(transformers, str(manifest.model.get("class")), None)
    if cls is None:
        raise ArtifactError(
            f"{directory}: model class {manifest.model.get('class')!r} is not in transformers: "
            "build the model yourself and pass it instead of an id"
        )
    options: dict[str, Any] = {}
    if labels := manifest.model.get("labels"):
        options["id2label"] = {int(k): v for k, v in labels.items()}
        options["label2id"] = {v: int(k) for k, v in labels.items()}
    if str(base) == manifest.base.get("id") and manifest.base.get("revision"):
        options["revision"] = manifest.base["revision"]
    try:
        model: nn.Module = cls.from_pretrained(base, **options)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot load the base {str(base)!r}: {one_line(error)}") from error
    vocab = manifest.model.get("vocab_size")
    embedding = structure.pretrained(model).get_input_embeddings()
    if vocab and getattr(embedding, "num_embeddings", vocab) != vocab:
        structure.pretrained(model).resize_token_embeddings(vocab)
    return model


def _check_base(model: nn.Module, manifest: Manifest, directory: Path, *, force: bool) -> None:
    """Refuse another architecture and, unless forced, other weights."""
    expected = manifest.model.get("class")
    if expected != type(model).__name__:
        raise ArtifactError(
            f"{directory}: trained on a {expected}, but the base is a {type(model).__name__}"
        )
    trained_on = manifest.fingerprint
    fresh = set(manifest.base.get("fresh", ()))
    found = fingerprint({n: p for n, p in model.named_parameters() if n not in fresh})
    if trained_on is None or found is None:
        logger.warning("%s: no weight fingerprint: pinned by id and sha alone", directory)
    elif not found.matches(trained_on) and not force:
        raise ArtifactError(
            f"{directory}: trained on {_named(manifest.base, trained_on)}, but this base is "
            f"{_named(_identity(model), found)}: load that base, or force=True"
        )


def _identity(model: nn.Module) -> dict[str, Any]:
    base = inspect_base(model)
    return {"id": base.id, "revision": base.revision}


def _named(base: Mapping[str, Any], weights: Fingerprint) -> str:
    name = base.get("id") or "a base without Hub id"
    revision = f"@{base['revision'][:12]}" if base.get("revision") else ""
    return f"{name}{revision} (weights {weights})"


def methods_of(manifest: Manifest, directory: Path) -> list[Method]:
    """Return the configured methods of an artifact; a missing plugin is named with its version."""
    methods: list[Method] = []
    for entry in manifest.methods:
        try:
            cls = discovery.entry(entry["name"]).load()
            methods.append(cls.configure(entry["settings"]))
        except PluginError as error:
            where = f"{entry.get('distribution')} {entry.get('version')}"
            raise PluginError(
                f"{directory} needs method {entry['name']!r} from {where}: pip install "
                f"{entry.get('distribution')}=={entry.get('version')} ({error})"
            ) from error
        except MethodError as error:
            raise ArtifactError(f"{directory}: {error}") from error
    return methods


def _prepared(
    model: nn.Module, methods: list[Method], context: Context, manifest: Manifest, directory: Path
) -> None:
    try:
        fresh = manifest.base.get("fresh", [])
        prepare(model, methods, context, train_head=manifest.train_head, fresh=fresh)
    except MethodError as error:
        raise ArtifactError(f"{directory}: does not fit this base: {error}") from error
