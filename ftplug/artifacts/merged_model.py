"""A plain transformers model: a base with an artifact folded in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftplug.artifacts.digests import checked_file
from ftplug.artifacts.effects.checking import asked_plain, off, own_probe, why_not_asked
from ftplug.artifacts.loading import load, manifest_of
from ftplug.artifacts.registries import artifact_folder
from ftplug.attaching.merging import merge
from ftplug.errors import ArtifactError
from ftplug.files.staged import require_empty, staged
from ftplug.files.write_errors import stated_write_errors


@dataclass(frozen=True)
class Merged:
    """A folder with a plain model, and a line: it answers as trained, or why that is unknown."""

    folder: Path
    effect: str

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def merge_artifact(
    artifact: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Path:
    """Write a plain transformers model, as :func:`merged` does, and return its folder."""
    return merged(artifact, to, base=base, revision=revision).folder


def merged(
    artifact: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Merged:
    """Write a plain transformers model: the base with the artifact folded in, and its tokenizer.

    ``artifact`` is a folder or ``org/name`` (of which ``revision`` is pulled), ``base`` is where
    the base lies if not under the id that the artifact names. The folder ``to`` appears complete or
    not at all; ``from_pretrained`` reads it without ftplug, and so it is read once here, to ask it
    what the artifact's probe asks. Raises :class:`MethodError` where the method cannot be folded,
    :class:`ArtifactError` where artifact or base are not sound, or what was written does not
    answer as the trained model did.
    """
    target = Path(to)
    require_empty(target)
    directory = artifact_folder(artifact, revision)
    manifest = manifest_of(directory)
    where = base or manifest.base["id"]
    if where is None:
        raise ArtifactError(f"{directory}: its base has no Hub id: name its folder with --base")
    model: Any = load(where, directory)
    probe = own_probe(directory, manifest)
    reason = why_not_asked(model) if probe else "the artifact has no probe"
    without = off(model, probe) if probe and not reason else None
    cls, model = type(model), merge(model)
    into = staged(target, last="config.json", exist_ok=False)
    with stated_write_errors(target), into as stage:
        model.save_pretrained(stage)
        del model  # what was written is read back: not two models at once
        for name in sorted(set(manifest.files) - manifest.weight_files()):
            if not (stage / name).exists():
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                with checked_file(directory, name, manifest.files[name]) as file:
                    (stage / name).write_bytes(file.read(file.size))
        effect = f"its answers were not compared with the trained ones: {reason}"
        if probe is not None and not reason:
            effect = asked_plain(cls, stage, probe, without, directory)
    return Merged(target, effect)
