"""Copying an artifact out of the cache into a folder of its own: ``ftplug pull --to``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ftplug.artifacts.card import CARD, CARD_PICTURES, is_generated
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.signatures import SIGNATURES
from ftplug.errors import ArtifactError, RegistryError
from ftplug.files.staged import finish_interrupted, staged
from ftplug.files.write_errors import stated_write_errors


def require_free(target: Path) -> None:
    """Refuse a folder that holds something else than an artifact."""
    if os.path.islink(target) and not target.exists():
        raise RegistryError(f"{target} is a link that leads nowhere: choose another --to")
    if os.path.exists(target) and not target.is_dir():
        raise RegistryError(f"{target} is a file: choose another --to")
    if os.path.isdir(target) and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise RegistryError(f"{target} is not empty and no artifact: choose another --to")


def copy_to_folder(
    folder: Path, names: Iterable[str], manifest: Manifest | None, target: Path, *, overwrite: bool
) -> None:
    """Copy files of the cache; the copy takes its name only once it is verified.

    Where ``target`` holds this very artifact it is made sound again, and an edited card stays.
    """
    obsolete, kept = set[str](), set[str]()
    with stated_write_errors(target):
        finish_interrupted(target)
    occupied = os.path.isfile(target / MANIFEST)
    if occupied:
        if _holds(target, folder):
            kept = _edited_card(target)
        elif overwrite:
            obsolete = _listed(target) | {CARD, *CARD_PICTURES, *SIGNATURES}
        else:
            raise RegistryError(
                f"{target} holds another artifact, or another version: choose another --to, or let "
                "it be replaced with --overwrite"
            )
    into = staged(target, last=MANIFEST, obsolete=obsolete, exist_ok=occupied)
    with stated_write_errors(target), into as stage:
        for name in names:
            if name not in kept:
                (stage / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, stage / name)
        if manifest is not None:
            manifest.verify_files(stage)


def _holds(target: Path, folder: Path) -> bool:
    """Whether both have the same manifest."""
    pulled = folder / MANIFEST
    return pulled.is_file() and pulled.read_bytes() == (target / MANIFEST).read_bytes()


def _edited_card(target: Path) -> set[str]:
    """Return the card's files where somebody edited it."""
    card = target / CARD
    edited = card.is_file() and not is_generated(card.read_text("utf-8", "replace"))
    return {CARD, *CARD_PICTURES} if edited else set()


def _listed(target: Path) -> set[str]:
    try:
        return set(read_manifest(target, plugins=False).files)
    except ArtifactError:
        return set()  # not readable: it is about to be replaced
