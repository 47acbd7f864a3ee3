"""Artifacts: the small, pinned, verifiable folder that a run leaves behind, and how it is saved."""

from __future__ import annotations

import os
import types
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.author import checked_author, merged_author
from ftplug.artifacts.card import CARD, CARD_PICTURES, bare_card, card_files, is_generated
from ftplug.artifacts.digests import FileEntry, file_entry
from ftplug.artifacts.effects import entry as effects
from ftplug.artifacts.json_values import json_values
from ftplug.artifacts.manifest import MANIFEST, Manifest, make_manifest, read_manifest
from ftplug.artifacts.signatures import refuse_signed, signatures_in
from ftplug.artifacts.tensors import gathered_tensors, refuse_empty_in, write_tensors
from ftplug.attaching.attachment import (
    ADAPTERS,
    Attachment,
    require_attachment,
    unwrap_model,
)
from ftplug.attaching.disabling import refuse_disabled
from ftplug.attaching.sharding import is_sharded
from ftplug.attaching.sharing_base.checking import require_shared_as_it_was
from ftplug.attaching.sharing_base.shared import own_before_writing
from ftplug.base.own_config import with_own_use_cache
from ftplug.context import WEIGHTS, logger
from ftplug.errors import ArtifactError, MethodError, PluginError
from ftplug.files.staged import finish_interrupted, replace_file, staged
from ftplug.files.write_errors import stated_write_errors
from ftplug.inplace import is_wrapped

if TYPE_CHECKING:
    from torch import Tensor, nn


def save(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    author: Mapping[str, Any] | None = None,
    processing_class: Any = None,
    state_dict: Mapping[str, Tensor] | None = None,
    probe: bool = True,
    exist_ok: bool = True,
) -> Path:
    """Write the artifact of a model that carries a method; complete or not at all.

    ``training`` (data, metrics, baselines, seed, steps …) goes into manifest and card; a Trainer
    run's facts are known already. ``author`` adds what only the author knows (:class:`Author`);
    what was said of an earlier artifact in the same folder still holds. ``processing_class`` (the
    tokenizer) is saved with it; ``state_dict`` holds gathered tensors where the model's own are
    sharded: without them all processes must call, and the first writes. ``probe=False`` leaves out
    what the methods change in a few answers. Without ``exist_ok`` a folder that holds something
    already, or does by the time of writing, is an :class:`ArtifactError`. Returns the folder.
    """
    import torch

    attached = require_attachment(model)
    inner = unwrap_model(model)
    refuse_disabled(inner, "save")
    require_shared_as_it_was(inner, "save")
    target = Path(directory)
    training = training or attached.training
    alone = bool(state_dict)
    asked = effects.asked(inner, probe=probe, alone=alone, tokenizer=processing_class)
    said = merged_author(checked_author(attached.author), checked_author(author or {}))
    tensors = gathered_tensors(inner, attached.plan, state_dict)
    if not state_dict and is_sharded(inner) and torch.distributed.get_rank() != 0:
        return target
    if attached.first_backward:
        attached.first_backward.say_what_never_trained()
    with stated_write_errors(target):
        finish_interrupted(target)
    earlier = _earlier(target)
    obsolete = earlier.weight_files() if earlier else set()
    if _has_generated_card(target):
        obsolete |= CARD_PICTURES
    if signed := signatures_in(target):
        obsolete |= signed
        logger.warning("%s was signed: what is saved over it is not: sign it anew", target)
    into = staged(target, last=MANIFEST, obsolete=obsolete, exist_ok=exist_ok)
    with stated_write_errors(target), into as stage:
        with with_own_use_cache(inner, attached.base.use_cache):
            written = _write_weights(inner, attached, tensors, stage)
        if processing_class is not None:
            processing_class.save_pretrained(str(stage))
        effect = effects.written(asked, stage, attached.host.names, training, target)
        files = {
            path.relative_to(stage).as_posix(): file_entry(path)
            for path in sorted(stage.rglob("*"))
            if path.is_file() and path.name != CARD
        }
        if processing_class is None:
            files = _carried(earlier, target) | files
        manifest = make_manifest(
            inner,
            attached,
            training=training,
            files=files,
            written=written,
            author=merged_author(earlier.author if earlier else {}, said),
            effect=effect,
        )
        for name, content in _card(manifest, target).items():
            (stage / name).write_bytes(content)
        manifest.write(stage / MANIFEST)
    return target


def _write_weights(
    model: nn.Module, attached: Attachment, tensors: Mapping[str, Tensor], stage: Path
) -> dict[str, list[str]]:
    """Let each method write its files, and the rest into the host's; return the files by method."""
    written: dict[str, list[str]] = {}
    held: set[str] = set()
    for method, names in attached.host.calls(
        "save_artifact", model=model, directory=stage, tensors=tensors
    ):
        held |= set(names or ())
        files = {p.relative_to(stage).as_posix() for p in stage.rglob("*") if p.is_file()}
        written[method.name] = sorted(files.difference(*written.values()))
    refuse_empty_in(stage)
    rest = {name: tensor for name, tensor in tensors.items() if name not in held}
    if rest:
        write_tensors(rest, stage / WEIGHTS)
    return written


def take_over_saving(model: nn.Module) -> None:
    """Let a model that carries a method write the artifact by its own ways of saving.

    ``save_pretrained``, and ``save`` of sentence-transformers, by which it pushes to the Hub as
    well. A part of it that holds something of the method refuses: read back, a file of its own
    would be a plain model without what was trained. So does ``load_state_dict`` of a plain base's
    values: what the methods added would stay as trained.
    """
    attached = require_attachment(model)
    model.__dict__["load_state_dict"] = types.MethodType(_load_state_dict, model)
    for name in ("save_pretrained", "save"):
        if hasattr(model, "save_pretrained") and callable(getattr(type(model), name, None)):
            model.__dict__[name] = types.MethodType(_save_pretrained, model)
    for name in ADAPTERS:
        if hasattr(model, name):
            model.__dict__[name] = partial(_refuse_adapter, name, attached.host.names)
    for name, part in model.named_modules():
        if part is model or not hasattr(part, "save_pretrained"):
            continue
        added = any(tensor.startswith(f"{name}.") for tensor in attached.plan.added)
        if added or any(map(is_wrapped, part.modules())):
            refusal = partial(_refuse_part, type(part).__name__, attached.host.names)
            part.__dict__["save_pretrained"] = refusal


def _refuse_part(part: str, methods: str, *args: Any, **kwargs: Any) -> None:
    raise MethodError(
        f"save_pretrained: this {part} is a part of a model that carries {methods}, which it would "
        "not hold: save the whole model (that writes the artifact), or fold the method in first "
        "(ftplug.merge(model))"
    )


def _refuse_adapter(name: str, methods: str, *args: Any, **kwargs: Any) -> None:
    raise MethodError(
        f"{name}: the model carries {methods} by ftplug, which another adapter beside it would "
        "not be saved, merged or switched off with: load that one onto a base of its own"
    )


def _load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kw: Any) -> Any:
    """Load what the model itself gave; refuse what it gave before it carried the methods."""
    attached = require_attachment(self)
    added = attached.plan.added
    if added and state_dict.keys() >= set(attached.names) and not state_dict.keys() & set(added):
        raise MethodError(
            f"load_state_dict: these values are of the plain base, and what {attached.host.names} "
            f"added ({added[0]} …) would stay as it is: take them once the first Trainer is built "
            "(initial = copy.deepcopy(model.state_dict())), or load a fresh base for each fold"
        )
    own_before_writing(self, state_dict.keys())
    return type(self).load_state_dict(self, state_dict, *args, **kw)


def _save_pretrained(self: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Write the artifact: what ``save_pretrained`` means for a model with a method attached."""
    directory = args[0] if args else kwargs.get("save_directory", kwargs.get("path"))
    if directory is None:
        raise MethodError("save_pretrained: name the folder to save to")
    if not kwargs.get("is_main_process", True):
        if kwargs.get("state_dict") is None and is_sharded(self):
            effects.asked(self)  # the main process waits for these
            gathered_tensors(self, require_attachment(self).plan)
        return
    save(self, directory, state_dict=kwargs.get("state_dict"))
    if kwargs.get("push_to_hub"):
        raise MethodError("save_pretrained(push_to_hub=True): save, then push the folder")


def annotate(
    directory: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    **author: Any,
) -> Manifest:
    """Add what the author says, and what was measured since, to an artifact; returns its manifest.

    ``annotate(folder, notes="…", license="mit")``: the fields are those of :class:`Author`, and an
    empty value takes one back. ``training`` replaces facts of the run by name. Manifest and card
    are written anew, each complete or not at all; a card that somebody edited stays as it is.
    """
    target = Path(directory)
    with stated_write_errors(target):
        finish_interrupted(target)
    manifest = read_manifest(target)
    refuse_signed(target, "cannot be annotated")
    manifest = replace(
        manifest,
        training=manifest.training | json_values(training or {}),
        author=merged_author(manifest.author, checked_author(author)),
    )
    with stated_write_errors(target):
        replace_file(target / MANIFEST, manifest.text().encode("utf-8"))
        for name, content in _card(manifest, target).items():
            replace_file(target / name, content)
    return manifest


def list_anew(directory: Path) -> None:
    """List what its own run has written over files of an artifact since it was saved, if anything.

    A Trainer's class may save the model, and then its generation config or tokenizer once more.
    """
    if not (directory / MANIFEST).is_file():
        return
    manifest = read_manifest(directory)
    since = (directory / MANIFEST).stat().st_mtime_ns
    paths = {name: directory / name for name in manifest.files}
    later = {n: p for n, p in paths.items() if p.is_file() and p.stat().st_mtime_ns >= since}
    files = manifest.files | {name: file_entry(path) for name, path in later.items()}
    if files != manifest.files:
        refuse_signed(directory, "its files changed")
        text = replace(manifest, files=files).text()
        with stated_write_errors(directory):
            replace_file(directory / MANIFEST, text.encode("utf-8"))


def _earlier(target: Path) -> Manifest | None:
    """Return the manifest of the artifact that a save replaces, if there is a readable one."""
    if not os.path.isfile(target / MANIFEST):
        for path in sorted(target.glob("*.safetensors")) if os.path.isdir(target) else ():
            logger.warning("%s holds a %s of another run: it stays there", target, path.name)
        return None
    try:
        return read_manifest(target)
    except ArtifactError:
        return None  # not ours to judge: it is about to be replaced


def _carried(manifest: Manifest | None, target: Path) -> dict[str, FileEntry]:
    """Return an artifact's other files (the tokenizer's): they stay."""
    if manifest is None:
        return {}
    weights = manifest.weight_files()
    return {n: e for n, e in manifest.files.items() if n not in weights and (target / n).is_file()}


def _card(manifest: Manifest, target: Path) -> dict[str, bytes]:
    """Return the card's files, or none where the folder has a README that somebody wrote.

    A card that cannot be rendered must not cost a trained model: it becomes a bare title.
    """
    ours = _has_generated_card(target)
    if not ours and (target / CARD).exists():
        return {}
    try:
        files = card_files(manifest)
    except PluginError as error:
        logger.warning("%s: %s", target, error)
        files = bare_card(manifest)
    return {n: c for n, c in files.items() if ours or not (target / n).exists()}


def _has_generated_card(target: Path) -> bool:
    card = target / CARD
    return os.path.isfile(card) and is_generated(card.read_text(encoding="utf-8", errors="replace"))
