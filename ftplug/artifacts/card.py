"""The model card of an artifact, written by whatever package offers one, sealed by its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from ftplug.artifacts.effects.entry import in_words
from ftplug.artifacts.notices.lines import without_notices
from ftplug.entry_points import the_one
from ftplug.errors import PluginError, one_line

if TYPE_CHECKING:
    from ftplug.artifacts.manifest import Manifest

GROUP = "ftplug.cards"
CARD = "README.md"
CURVE = "training_curve.png"
COMPARED = "comparison.png"
CARD_PICTURES = frozenset({CURVE, COMPARED})  # those that come and go with a card

_SEAL = "\n<!-- Written by ftplug, and written anew while nobody has edited it. sha256: {} -->\n"
_SEALED = re.compile(r"(?s)(.*)" + re.escape(_SEAL).replace(r"\{\}", "([0-9a-f]{64})"))


def card_files(manifest: Manifest, *, repo_id: str | None = None) -> dict[str, bytes]:
    """Return the card's files by name: ``README.md``, and the pictures it shows.

    They come from the entry point of ``ftplug.cards``, called with the manifest as JSON values;
    without one the card is a bare title. ``repo_id`` is where the artifact is going, if it is.
    Raises :class:`PluginError` naming the entry point that failed, or all where there are several.
    """
    point = the_one(GROUP)
    if point is None:
        return bare_card(manifest)
    try:
        return point.calling(lambda render: _rendered(render(asdict(manifest), repo_id=repo_id)))
    except PluginError as error:
        raise PluginError(f"the card {error}") from error


def _rendered(answer: Mapping[str, bytes]) -> dict[str, bytes]:
    files = dict(answer)
    return files | {CARD: _sealed(files[CARD].decode("utf-8"))}


def bare_card(manifest: Manifest) -> dict[str, bytes]:
    """Return the card that needs no plugin: a title, and what the methods change."""
    base = manifest.base.get("id") or manifest.model.get("class")
    effect = in_words(manifest.effect)
    said = f"\nEffect: {one_line(effect)}\n" if effect else ""
    return {CARD: _sealed(f"# {manifest.method_names} on {base}\n{said}")}


def is_generated(text: str) -> bool:
    """Whether a card is ftplug's and unedited, or the Trainer's own, and may be written anew.

    A notice in its metadata (deprecated, withdrawn) is no edit.
    """
    return is_sealed(text) or (not _seal(text) and "generated_from_trainer" in text)


def is_sealed(text: str) -> bool:
    """Whether a card is ftplug's, and nobody has edited it."""
    sealed = _seal(text)
    return sealed is not None and sealed[2] == _digest(sealed[1])


def _seal(text: str) -> re.Match[str] | None:
    text = without_notices(text)
    return _SEALED.fullmatch(text.replace("\r\n", "\n"))  # git may have changed the line ends


def _sealed(text: str) -> bytes:
    return (text + _SEAL.format(_digest(text))).encode("utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
