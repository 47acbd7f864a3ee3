"""The model card of an artifact, written by whatever package offers one, sealed by its digest."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from ftplug.errors import PluginError

if TYPE_CHECKING:
    from ftplug.artifacts.manifest import Manifest

GROUP = "ftplug.cards"
CARD = "README.md"
CURVE = "training_curve.png"  # the one picture that comes and goes with a card

_SEAL = "\n<!-- Written by ftplug, and written anew while nobody has edited it. sha256: {} -->\n"
_SEALED = re.compile(r"(?s)(.*)" + re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{64})"))


def card_files(manifest: Manifest, *, repo_id: str | None = None) -> dict[str, bytes]:
    """Return the card's files by name: ``README.md``, and the pictures it shows.

    They come from the first entry point of ``ftplug.cards``, called with the manifest as JSON
    values; without one the card is a bare title. ``repo_id`` is where the artifact is going, if it
    is. Raises :class:`PluginError` naming the entry point that failed.
    """
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            files: dict[str, bytes] = dict(point.load()(asdict(manifest), repo_id=repo_id))
            return files | {CARD: _sealed(files[CARD].decode("utf-8"))}
        except Exception as error:  # a stranger's module may raise anything
            raise PluginError(f"card {point.value!r} failed: {error!r}") from error
    return bare_card(manifest)


def bare_card(manifest: Manifest) -> dict[str, bytes]:
    """Return the card that needs no plugin: a title."""
    base = manifest.base.get("id") or manifest.model.get("class")
    return {CARD: _sealed(f"# {manifest.method_names} on {base}\n")}


def is_generated(text: str) -> bool:
    """Whether a card is ftplug's and unedited, or the Trainer's own, and may be written anew."""
    text = text.replace("\r\n", "\n")  # git may have changed the line ends
    if (sealed := _SEALED.fullmatch(text)) is None:
        return "generated_from_trainer" in text
    return sealed[2] == _digest(sealed[1])


def _sealed(text: str) -> bytes:
    return (text + _SEAL.format(_digest(text))).encode("utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
