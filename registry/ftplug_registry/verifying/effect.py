"""Whether an artifact does here what it did where it was made: its probe, asked again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.artifacts.effects.checking import asked, own_probe
from ftplug.artifacts.loading import load
from ftplug.artifacts.manifest import read_manifest
from ftplug.errors import ArtifactError

if TYPE_CHECKING:
    from ftplug.effect.replaying import Replayed


def replayed(directory: Path, base: str | os.PathLike[str] | None = None) -> Replayed:
    """Load an artifact's folder and ask all that its probe asks; what is returned has the verdict.

    ``base`` is where the base lies if not under the id that the manifest names. Raises
    :class:`ArtifactError` where there is no probe, or the model cannot be asked.
    """
    manifest = read_manifest(directory)
    probe = own_probe(directory, manifest)
    if probe is None:
        note = manifest.effect.get("note") if manifest.effect else "it was made by an older ftplug"
        raise ArtifactError(f"{directory}: no probe to compare its answers with: {note}")
    where = base or manifest.base["id"]
    if where is None:
        raise ArtifactError(f"{directory}: its base has no Hub id: name its folder with --base")
    found = asked(load(where, directory, check_effect=False), probe)
    if isinstance(found, str):
        raise ArtifactError(f"{directory}: its effect could not be checked: {found}")
    return found


def require_trained(artifact: str, found: Replayed) -> None:
    """Raise :class:`ArtifactError`, with verdict and figures, unless it answers as trained."""
    if found.verdict != "trained":
        raise ArtifactError(f"{artifact}: {found.line()}")
