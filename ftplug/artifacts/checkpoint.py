"""Checkpoints: what may train, under in-memory names, beside the Trainer's own state files.

The methods' own states (``run.state``) belong to the tensors: whatever restores a checkpoint's
tensors (resuming, the best model at the end of training) restores the states that were saved with
them. Starting anew from a checkpoint's values, as from an artifact's, does not.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.digests import FileEntry, check_files, file_entry
from ftplug.artifacts.json_values import read_object
from ftplug.artifacts.manifest import Manifest, make_manifest, read_manifest
from ftplug.artifacts.method_state import (
    read_method_state,
    restore_method_state,
    write_method_state,
)
from ftplug.artifacts.tensors import check_tensors, copy_tensors, gathered_tensors, write_tensors
from ftplug.attaching.attachment import require_attachment
from ftplug.base.fingerprint import Fingerprint
from ftplug.context import logger
from ftplug.errors import ArtifactError, MethodError, one_line
from ftplug.host import transient
from ftplug.method import settings_to_show, spelled_methods

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.host import Host

STATE = "ftplug_state.json"
STATE_WEIGHTS = "ftplug_state.safetensors"
SEAL = "ftplug_files.json"  # size and digest of every file, the Trainer's included
TRAINER_STATE = "trainer_state.json"
NOTICE = "config.json"  # what transformers reads first, and prints, where it is given the folder


def write_checkpoint(
    model: nn.Module, directory: Path, state_dict: Mapping[str, Tensor] | None = None
) -> None:
    """Write the checkpoint files: the tensors that may train, the methods' states, what they are.

    Where there is no state there is no file of it.
    """
    attached, weights = require_attachment(model), directory / STATE_WEIGHTS
    write_tensors(gathered_tensors(model, attached.plan, state_dict), weights)
    files = {STATE_WEIGHTS: file_entry(weights)}
    files |= write_method_state(attached, directory)
    make_manifest(model, attached, files=files).write(directory / STATE)
    _write_notice(directory)


def _write_notice(directory: Path) -> None:
    """Let ``from_pretrained`` of the folder name what reads it: a model's config it cannot be.

    transformers prints the type of a model that it does not know.
    """
    way = f"ftplug.load(base, '…/{directory.name}') reads it"
    if not (directory / NOTICE).exists():  # a Trainer's class may have saved the model's own
        notice = {"model_type": f"ftplug checkpoint without its base, {way}"}
        (directory / NOTICE).write_text(json.dumps(notice, ensure_ascii=False) + "\n", "utf-8")


def read_checkpoint(model: nn.Module, directory: Path) -> None:
    """Load a checkpoint into a prepared model, checking method, settings and tensors first.

    The methods' states become what they were when it was written.
    """
    attached = require_attachment(model)
    if not (directory / STATE).is_file():
        raise ArtifactError(
            f"{directory}: no {STATE}: this checkpoint was written without ftplug, "
            "or is incomplete: start anew, or resume an older one"
        )
    manifest = read_manifest(directory, STATE)
    if not attached.host.same_methods(manifest.methods):
        then, now = what_differs(manifest.methods, attached.host.spec())
        raise MethodError(
            f"{directory} was trained with {then}, but this run is {now}: use the same method and "
            "settings to resume"
        )
    if manifest.train_head != attached.train_head:
        raise MethodError(
            f"{directory} was trained with train_head={manifest.train_head}, but this run has "
            f"{attached.train_head}: use the same to resume"
        )
    require_same_base(model, manifest, directory)
    contents = manifest.verify_files(directory, tensors_later=True)
    if STATE_WEIGHTS not in manifest.files:
        raise ArtifactError(f"{directory}: {STATE} lists no {STATE_WEIGHTS}: incomplete")
    tensors = contents.tensor_file(STATE_WEIGHTS).tensors
    check_tensors(model, attached.plan, tensors, directory)
    states = read_method_state(model, contents, manifest.files)
    contents.finish()
    copy_tensors(model, attached.plan, tensors)
    restore_method_state(attached, states)
    _say_what_differs(attached.host, manifest, directory)


def _say_what_differs(host: Host, manifest: Manifest, directory: Path) -> None:
    """Say where the run goes on with other methods that train nothing."""
    then, now = transient([*manifest.methods, *manifest.also]), transient(host.spec())
    if then != now:
        spelt = [
            spelled_methods((name, settings_to_show(settings)) for name, settings in methods)
            or "none"
            for methods in (then, now)
        ]
        logger.warning(
            "%s: methods that train nothing were %s, and are %s now: the run goes on from the same "
            "values, but may differ in rounding or dropout from the uninterrupted one",
            *(directory, *spelt),
        )


def seal(directory: Path) -> None:
    """List the files of a checkpoint that is written completely.

    All of them: torch reads an optimizer file with a flipped bit without a word, and the Trainer
    starts a new optimizer where the file is gone. Only the Trainer's state, a text that people
    edit, and the notice, which a model's config may replace, may change.
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    files = {path.relative_to(directory).as_posix(): file_entry(path) for path in paths}
    unlisted = (SEAL, TRAINER_STATE, NOTICE)
    listed = {name: entry for name, entry in files.items() if name not in unlisted}
    (directory / SEAL).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def check_complete(directory: Path) -> None:
    """Raise an ArtifactError that says what a checkpoint lacks, or which file is damaged."""
    if not os.path.isfile(directory / STATE):
        raise ArtifactError(f"{directory}: no {STATE}: written without ftplug, or incomplete")
    manifest = read_manifest(directory, STATE)
    files: Mapping[str, FileEntry] = manifest.files
    if (directory / SEAL).is_file():
        files = _sealed(directory / SEAL)
    check_files(directory, files, way_out="incomplete")
    _check_trainer_state(directory)


def _check_trainer_state(directory: Path) -> None:
    path = directory / TRAINER_STATE
    if not path.exists():
        raise ArtifactError(f"{directory}: {TRAINER_STATE} is missing: incomplete")
    read_object(path, largest=math.inf)  # the history of a long run


def _sealed(path: Path) -> dict[str, FileEntry]:
    import pydantic

    try:
        return pydantic.TypeAdapter(dict[str, FileEntry]).validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: no list of files: {one_line(error)}") from None


def resumable(checkpoint: Path, *, fall_back: bool = False) -> Path:
    """Return a checkpoint that is complete, or say what is wrong and which earlier one is.

    With ``fall_back`` that earlier one is returned, with a warning.
    """
    try:
        check_complete(checkpoint)
        return checkpoint
    except ArtifactError as error:
        earlier = _last_complete_before(checkpoint)
        if earlier is None:
            raise ArtifactError(f"{error}: no earlier one is complete: start anew") from error
        if not fall_back:
            raise ArtifactError(
                f"{error}: resume {earlier}, the last complete one before it"
            ) from error
        logger.warning("%s: resuming %s, the last complete one before it", error, earlier)
        return earlier


def _last_complete_before(checkpoint: Path) -> Path | None:
    if not os.path.isdir(checkpoint.parent):
        return None
    others = {step_of(path): path for path in checkpoint.parent.glob("checkpoint-*")}
    for step in sorted((n for n in others if 0 <= n < step_of(checkpoint)), reverse=True):
        with suppress(ArtifactError):
            check_complete(others[step])
            return others[step]
    return None


def step_of(checkpoint: Path) -> int:
    """Return the step in a checkpoint's name; -1 where there is none."""
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


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


def what_differs(
    then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> tuple[str, str]:
    """Return both methods on one line, of the same methods with the settings that differ alone."""
    if [method["name"] for method in then] != [method["name"] for method in now]:
        return spelled(then), spelled(now)
    settings = [(a["settings"], b["settings"]) for a, b in zip(then, now, strict=True)]
    differing = [{k for k in {**a, **b} if a.get(k, ...) != b.get(k, ...)} for a, b in settings]
    both = [
        [
            {**method, "settings": {k: v for k, v in method["settings"].items() if k in names}}
            for method, names in zip(spec, differing, strict=True)
        ]
        for spec in (then, now)
    ]
    return spelled(both[0]), spelled(both[1])


def spelled(spec: Sequence[Mapping[str, Any]]) -> str:
    """Return methods and settings on one line, for messages."""
    return " + ".join(
        f"{m['name']}({', '.join(f'{k}={v}' for k, v in m['settings'].items())})" for m in spec
    )
