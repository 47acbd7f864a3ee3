"""Loading an artifact: everything is checked before the caller's model is touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import isfile
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug import structure
from ftplug.artifacts.base_model import base_fingerprint, base_model
from ftplug.artifacts.checkpoint import (
    STATE,
    STATE_WEIGHTS,
    named_base,
    require_same_base,
    what_differs,
)
from ftplug.artifacts.contents import Contents
from ftplug.artifacts.effects.checking import are_rounded, probe_in, require_effect
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.methods import check_scales, methods_of
from ftplug.artifacts.registries import artifact_folder, installed_registry, registry
from ftplug.artifacts.saving import take_over_saving
from ftplug.artifacts.strangers.bounded import Limit, bounded
from ftplug.artifacts.strangers.patterns import check_names, check_patterns
from ftplug.artifacts.tensors import check_finite, check_tensors, copy_tensors, taken_back
from ftplug.artifacts.view import view_of
from ftplug.attaching.attachment import Attachment, attachment_of, prepare, require_attachment
from ftplug.attaching.changing import changes_model, refuse_no_values
from ftplug.attaching.holders import no_longer_holds
from ftplug.attaching.rollback import Snapshot
from ftplug.attaching.sharing_base.copied import say_if_nothing_is_shared, shell_of
from ftplug.base.inspecting import base_identity
from ftplug.context import WEIGHTS, Context, logger, read_tensors
from ftplug.errors import ArtifactError, FtplugError, MethodError, one_line
from ftplug.structure import weightless_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.attaching.plan import Plan
    from ftplug.effect.probe import Probe
    from ftplug.method import Method


def load(
    base: nn.Module | str | os.PathLike[str],
    artifact: str | os.PathLike[str],
    *,
    revision: str | None = None,
    force: bool = False,
    share_base: bool = False,
    allow_pickle: bool = False,
    check_effect: bool = True,
    require_signature: bool = False,
    trusted: str | os.PathLike[str] | None = None,
) -> nn.Module:
    """Put an artifact on its base model, in place, and return the model.

    ``base`` is a model, or an id or folder from which the artifact's model class is loaded with its
    labels. ``artifact`` is a folder, or a repository ``org/name`` of which the branch, tag or
    commit ``revision`` is pulled and verified. Everything is checked first, on file headers and on
    a weightless copy of the model: where anything is wrong an :class:`ArtifactError` or
    :class:`RegistryError` is raised and the model is untouched. ``force=True`` loads onto a base
    whose weights differ from those the artifact was trained on, and NaN or infinite values.
    ``require_signature=True`` refuses one that nobody has signed who is known here; ``trusted`` is
    a file or folder of keys of which one must have signed.

    One input of the artifact's probe, where it has one, is then asked again: answers without any
    effect of the method, or certainly others in the dtype that it was saved in, are refused as
    well, and the model given back; what is less certain is warned about. ``check_effect=False``
    does not ask (nor is a quantized, offloaded or meta base asked).

    ``share_base=True`` leaves the base as it is, for more artifacts, and returns a second model
    over the same memory; raises :class:`MethodError` where that cannot be.

    A PEFT adapter that ftplug did not make has no manifest: that is warned about, and the model is
    wrapped as ``PeftModel.from_pretrained`` does; ``allow_pickle=True`` accepts pickled weights.
    """
    from torch import nn

    if not isinstance(base, nn.Module | str | os.PathLike):
        raise ArtifactError(f"load: the base is a model, an id or a folder, not {base!r}")
    if not isinstance(artifact, str | os.PathLike):
        raise ArtifactError(f"load: the artifact is a folder or org/name, not {artifact!r}")
    directory = artifact_folder(
        artifact,
        revision,
        allow_pickle=allow_pickle,
        require_signature=require_signature,
        trusted=trusted,
    )
    if share_base:
        base = shell_of(base, directory, plain=is_plain(directory))
    if is_plain(directory):
        return registry().load_plain(base, directory, allow_pickle=allow_pickle, force=force)
    manifest, contents = _opened(directory)
    methods = methods_of(manifest, directory)  # before a base is read, which takes long
    model = base if isinstance(base, nn.Module) else base_model(base, manifest, directory)
    probe = probe_in(contents) if check_effect else None
    loaded = _put_on(model, methods, manifest, contents, probe, force=force)
    if share_base:
        say_if_nothing_is_shared(loaded, directory)
    return loaded


@changes_model
def _put_on(
    model: nn.Module,
    methods: list[Method],
    manifest: Manifest,
    contents: Contents,
    probe: Probe | None,
    *,
    force: bool,
) -> nn.Module:
    """Put the methods and values of an opened artifact on a base that is in memory."""
    directory = contents.directory
    refuse_no_values(model, f"{directory}")
    if (attachment := attachment_of(model)) is not None:
        raise ArtifactError(
            f"{directory}: the model already carries {attachment.host.names}: load a base, or take "
            "that off first (ftplug.detach)"
        )
    _check_base(model, manifest, directory, force=force)
    context = Context(
        seed=0,
        task=structure.task_of(model),
        model_class=type(model).__name__,
        loading=True,
    )
    _check_settings(manifest, model, directory)
    rehearsal = weightless_copy(model)
    plan = _rehearsed(rehearsal, methods, context, manifest, directory)
    tensors = _tensors(rehearsal, contents, manifest)
    check_tensors(rehearsal, plan, tensors, directory)
    rounded = are_rounded(tensors, rehearsal)
    if not force:
        check_finite(rehearsal, tensors, directory, but=dict(model.named_buffers()).keys())
        check_scales(manifest, directory)
    with undone(model, directory):
        changed = structure.set_pipeline(model, manifest.model.get("pipeline"))
        attached = _prepared(model, methods, context, manifest, directory)
        copy_tensors(model, attached.plan, tensors)
        with taken_back(model, attached.plan, tensors):
            require_effect(model, probe, directory, rounded=rounded, force=force)
    if changed:
        logger.warning("%s: the base now has what it was trained with: %s", directory, changed)
    return model.eval()


def _check_settings(manifest: Manifest, model: nn.Module, directory: Path) -> None:
    """Refuse patterns of names that a stranger wrote so that they never end."""
    for entry in manifest.methods:
        resolved = entry.get("resolved", {})
        check_names(resolved, model, directory)
        patterns = {n: v for n, v in entry["settings"].items() if n not in resolved}
        check_patterns(patterns, model, directory)


def _rehearsed(
    copy: nn.Module, methods: list[Method], context: Context, manifest: Manifest, directory: Path
) -> Plan:
    """Prepare a weightless copy as the base will be; raises what the base is then spared."""
    import torch

    try:
        structure.set_pipeline(copy, manifest.model.get("pipeline"))
        with torch.device("meta"), bounded(_limit(copy), directory):
            return _prepared(copy, methods, context, manifest, directory).plan
    except (MethodError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        raise ArtifactError(f"{directory}: does not fit this base: {one_line(error)}") from error


def continue_from(model: nn.Module, artifact: str | os.PathLike[str]) -> None:
    """Give a model that carries a method the values of an artifact of the same method."""
    directory = artifact_folder(artifact)
    manifest, contents = _opened(directory)
    attached = require_attachment(model)
    if not attached.host.same_methods(manifest.methods):
        then, now = what_differs(manifest.methods, attached.host.spec())
        raise MethodError(
            f"{directory} was made with {then}, but this run is {now}: use the same method and "
            "settings to continue"
        )
    require_same_base(model, manifest, directory)
    probe = probe_in(contents)
    tensors = _tensors(model, contents, manifest)
    check_tensors(model, attached.plan, tensors, directory)
    rounded = are_rounded(tensors, model)
    copy_tensors(model, attached.plan, tensors)
    with taken_back(model, attached.plan, tensors):
        require_effect(model, probe, directory, rounded=rounded, force=False)


def manifest_of(directory: Path) -> Manifest:
    """Return the manifest of an artifact, or the description of a training checkpoint."""
    is_checkpoint = not isfile(directory / MANIFEST) and isfile(directory / STATE)
    return read_manifest(directory, STATE if is_checkpoint else MANIFEST)


def is_plain(directory: Path) -> bool:
    """Whether a folder is an adapter that ftplug did not make, and the registry can read."""
    ours = any(isfile(directory / name) for name in (MANIFEST, STATE))
    known = None if ours else installed_registry()
    return known is not None and known.is_plain(directory)


def _opened(directory: Path) -> tuple[Manifest, Contents]:
    """Return manifest and files of an artifact, or of a training checkpoint."""
    manifest = manifest_of(directory)
    return manifest, manifest.verify_files(directory, tensors_later=True)


def _tensors(model: nn.Module, contents: Contents, manifest: Manifest) -> dict[str, Tensor]:
    """Read what was trained, for a model that is prepared; all files have been checked then."""
    if STATE_WEIGHTS in manifest.files:
        tensors = contents.tensor_file(STATE_WEIGHTS).tensors
    else:
        tensors = _artifact_tensors(model, contents, manifest)
    contents.finish()
    return tensors


def _artifact_tensors(
    model: nn.Module, contents: Contents, manifest: Manifest
) -> dict[str, Tensor]:
    """Read the tensors from a view of the folder that has the verified files alone."""
    attached, directory = require_attachment(model), contents.directory
    tensors: dict[str, Tensor] = {}
    with view_of(contents, model) as view:
        try:
            with contents.given_as(view):
                for _, loaded in attached.host.calls("load_artifact", model=model, directory=view):
                    tensors |= dict(loaded or {})
                if WEIGHTS in manifest.files:
                    tensors |= read_tensors(view / WEIGHTS)
        except ArtifactError as error:  # name the folder the user knows
            raise ArtifactError(str(error).replace(str(view), str(directory))) from error
        except Exception as error:  # of a stranger's file a method's library may raise anything
            said = one_line(error).replace(str(view), str(directory)) or type(error).__name__
            raise ArtifactError(f"{directory}: not readable: {said}") from error
    return tensors


@contextmanager
def undone(model: nn.Module, directory: Path) -> Iterator[None]:
    """Give a model its structure back where the block fails, and say that in one line."""
    before = Snapshot(model)
    try:
        yield
    except BaseException as error:
        before.restore()
        no_longer_holds(model)
        if isinstance(error, FtplugError) or not isinstance(error, Exception):
            raise
        reason = one_line(error) or type(error).__name__
        raise ArtifactError(f"{directory}: cannot be loaded: {reason}") from error


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


def _limit(model: nn.Module) -> Limit:
    """Return the most that methods may add to a model: some of peft's have ten modules a layer."""
    modules = sum(1 for _ in model.modules())
    return Limit(modules=100 * modules + 10_000, seconds=120)


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
