"""Loading an artifact: everything is checked before the caller's model is touched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import discovery, structure
from ftplug.artifact import WEIGHTS
from ftplug.attachment import attachment_of, prepare, require_attachment, weightless_copy
from ftplug.base import base_identity
from ftplug.checkpoint import STATE, STATE_WEIGHTS, named_base, require_same_base, spelled
from ftplug.context import Context, logger
from ftplug.errors import ArtifactError, MethodError, MissingMethodError, PluginError
from ftplug.fingerprint import Fingerprint, fingerprint
from ftplug.manifest import MANIFEST, Manifest, read_manifest
from ftplug.quiet import quiet
from ftplug.registry import artifact_folder, registry
from ftplug.tensors import check_tensors, copy_tensors, one_line, read_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.method import Method


_MOST_LABELS = 10_000  # without names: more make a config slow to build
_CHOOSES_CODE = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "experts_implementation",
    "quantization_config",
    "torch_dtype",
    "trust_remote_code",
}


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
    model = base if isinstance(base, nn.Module) else base_model(base, manifest, directory)
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
    try:
        with torch.device("meta"):
            _prepared(rehearsal, methods, context, manifest, directory)
    except (ValueError, TypeError, OverflowError, RuntimeError) as error:  # settings no layer takes
        raise ArtifactError(f"{directory}: does not fit this base: {one_line(error)}") from error
    tensors = read(rehearsal)
    check_tensors(rehearsal, tensors, directory)
    _prepared(model, methods, context, manifest, directory)
    copy_tensors(model, tensors)
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
    check_tensors(model, tensors, directory)
    copy_tensors(model, tensors)


def manifest_of(directory: Path) -> Manifest:
    """Return the manifest of an artifact, or the description of a training checkpoint."""
    is_checkpoint = not (directory / MANIFEST).is_file() and (directory / STATE).is_file()
    return read_manifest(directory, STATE if is_checkpoint else MANIFEST)


def is_plain(directory: Path) -> bool:
    """Whether a folder is an adapter as peft alone saves it."""
    return not any((directory / name).is_file() for name in (MANIFEST, STATE)) and (
        (directory / "adapter_config.json").is_file()
    )


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


def base_model(base: str | os.PathLike[str], manifest: Manifest, directory: Path) -> nn.Module:
    """Load the artifact's model class, with its labels and settings, from a base id or folder."""
    import transformers

    name = str(manifest.model.get("class"))
    cls: Any = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ArtifactError(
            f"{directory}: {name!r} is no model class of transformers: "
            "build the model yourself and pass it instead of an id"
        )
    revision = manifest.base.get("revision") if str(base) == manifest.base.get("id") else None
    try:
        config_class: Any = cls.config_class
        config = config_class.from_dict(_harmless(manifest.model.get("config") or {}, directory))
        own = config_class.from_pretrained(base, revision=revision or "main")
        _check_size(cls, config, own, manifest, directory)
        # A fresh head and resized embeddings do not fit the base's: the artifact brings its own.
        with quiet(bars=True):  # its report would call the head untrained that comes next
            model: nn.Module = cls.from_pretrained(
                base, config=config, revision=revision or "main", ignore_mismatched_sizes=True
            )
    except ArtifactError:
        raise
    except Exception as error:  # a stranger's config may raise anything
        raise ArtifactError(f"cannot load the base {str(base)!r}: {one_line(error)}") from error
    return model


def _harmless(config: Any, directory: Path) -> Any:
    """Return a stranger's config without what chooses code or how to load, at any depth.

    A kernel's name makes transformers fetch native code, a count of labels makes as many names.
    """
    if isinstance(config, list):
        return [_harmless(part, directory) for part in config]
    if not isinstance(config, dict):
        return config
    count, names = config.get("num_labels"), config.get("id2label")
    if names is None and isinstance(count, int) and count > _MOST_LABELS:
        raise ArtifactError(f"{directory}: its config has {count:,} labels and names none of them")
    dropped = _CHOOSES_CODE | ({"num_labels"} if names is not None else set())
    return {
        name: _harmless(value, directory)
        for name, value in config.items()
        if name not in dropped and not str(name).startswith("_")
    }


def _check_size(cls: Any, config: Any, own: Any, manifest: Manifest, directory: Path) -> None:
    """Refuse a config that asks for more than its base and its files hold, before any is allocated.

    What a config has beyond its base (a head, added tokens) comes in the artifact's own files.
    """
    import torch

    layers, limit = (getattr(c, "num_hidden_layers", None) or 0 for c in (config, own))
    if layers > limit:
        raise ArtifactError(f"{directory}: its config has {layers} layers, the base {limit}")
    with torch.device("meta"):
        asked, there = (sum(p.numel() for p in cls(c).parameters()) for c in (config, own))
    held = sum(entry["size"] for entry in manifest.files.values())
    if asked - there > held:
        raise ArtifactError(
            f"{directory}: its config describes {asked - there:,} parameters more than the base "
            f"has, and its files of {held:,} bytes do not hold them"
        )


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
    if labels and labels != {str(k): v for k, v in (config.id2label or {}).items()}:
        logger.warning("%s was trained for the labels %s: this model has others", directory, labels)


def base_fingerprint(model: nn.Module, manifest: Manifest) -> Fingerprint | None:
    """Return the fingerprint of a base as the artifact's was taken: without its fresh tensors."""
    fresh = set(manifest.base.get("fresh", ()))
    return fingerprint({n: p for n, p in model.named_parameters() if n not in fresh})


def methods_of(manifest: Manifest, directory: Path) -> list[Method]:
    """Return the configured methods of an artifact; a missing plugin is named with its version."""
    methods: list[Method] = []
    for entry in manifest.methods:
        try:
            cls = discovery.entry(entry["name"]).load()
            methods.append(cls.configure(entry["settings"]))
        except PluginError as error:
            where = f"{entry.get('distribution')} {entry.get('version')}"
            raise MissingMethodError(
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
