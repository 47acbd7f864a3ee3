"""The content to publish of an artifact folder: its manifest's files, card, bill of materials.

Nothing is changed in the folder: the card that names the repository is composed in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ftplug.artifacts.author import checked_author, merged_author, require_base
from ftplug.artifacts.card import CARD, CARD_PICTURES, card_files, is_generated
from ftplug.artifacts.file_names import is_pickle
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.signatures import SIGNATURES, refuse_signed, signatures_in
from ftplug.context import logger
from ftplug.errors import ArtifactError, FtplugError, RegistryError
from ftplug_registry.bom.document import BOM, bom, can_make_bom
from ftplug_registry.inspection import PICTURES, Content, inspect

_LINK = re.compile(r"""!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img[^>]+src=["']([^"']+)""", re.IGNORECASE)


def contents(
    directory: Path,
    repo_id: str,
    author: Mapping[str, Any] | None = None,
    *,
    base_license: str | None = None,
    strays: bool = False,
) -> dict[str, Content]:
    """Return what is published, by its name in the repository.

    A signed artifact is published as it was signed: nothing is added to its manifest.
    ``author`` is what the author says (``notes``, ``license`` …); it goes into manifest and card.
    ``strays=True`` leaves files of other kinds where they are, as a Trainer's output folder has
    them; otherwise they are refused. Raises :class:`ArtifactError` for an altered artifact,
    :class:`RegistryError` for what must not be published. The card is a path where somebody edited
    it, and bytes where it is ftplug's.
    """
    manifest = read_manifest(directory)
    manifest.verify_files(directory)
    listed: dict[str, Content] = {name: directory / name for name in manifest.files}
    if signed := signatures_in(directory):
        if author:
            refuse_signed(directory, "what is said of it now cannot be added")
        card = _card(directory, manifest, repo_id, told=False) | _as_signed(directory)
        text = (directory / MANIFEST).read_bytes()
    else:
        manifest = _completed(manifest, author, base_license)
        manifest = dataclasses.replace(manifest, card=None)
        card = _card(directory, manifest, repo_id, told=bool(author))
        if isinstance(written := card[CARD], Path):
            manifest = dataclasses.replace(manifest, card=card_digest(written.read_bytes()))
        card |= _bill_of_materials(directory, manifest, repo_id)
        text = manifest.text().encode()
    files: dict[str, Content] = {**listed, MANIFEST: text, **card}
    if not strays:
        _refuse_strays(directory, files)
    for name, content in sorted(files.items()):
        inspect(directory, name, content)
    return files | {name: directory / name for name in signed}


def card_digest(content: bytes) -> str:
    """Return the sha256 by which a manifest knows an author's card."""
    return hashlib.sha256(content).hexdigest()


def size_of(content: Content) -> int:
    """Return bytes."""
    return content.stat().st_size if isinstance(content, Path) else len(content)


def card_images(text: str) -> list[str]:
    """Return the pictures that a card shows and that lie beside it."""
    links = [first or second for first, second in _LINK.findall(text)]
    return [
        name
        for name in dict.fromkeys(links)
        if ":" not in name
        and not name.startswith("/")
        and not any(part.startswith(".") for part in PurePosixPath(name).parts)
        and PurePosixPath(name).suffix.lower() in PICTURES
    ]


def _completed(
    manifest: Manifest, author: Mapping[str, Any] | None, base_license: str | None
) -> Manifest:
    """Add what the author says, and the licence of the base where the run did not find it."""
    base = manifest.base
    if base_license and not base.get("license"):
        base = {**base, "license": base_license}
    said = checked_author(author or {})
    require_base(said, base["id"])
    told = merged_author(manifest.author, said)
    return dataclasses.replace(manifest, base=base, author=told)


def _card(directory: Path, manifest: Manifest, repo_id: str, *, told: bool) -> dict[str, Content]:
    """Return ftplug's own card, made anew for this repository, or the author's with its pictures.

    An author's card is published as it is: what ``author`` would add to it cannot be guessed.
    """
    path = directory / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if not text or is_generated(text):
        return dict(card_files(manifest, repo_id=repo_id))
    if told:
        raise ArtifactError(
            f"{path} was edited by hand: add the notes there, or delete it to have it written anew"
        )
    pictures = {name: directory / name for name in card_images(text)}
    return {CARD: path, **{name: p for name, p in pictures.items() if p.is_file()}}


def _as_signed(directory: Path) -> dict[str, Content]:
    """Return the pictures and the bill of materials of a signed artifact as they were signed."""
    names = (*CARD_PICTURES, BOM)
    return {name: directory / name for name in names if (directory / name).is_file()}


def _bill_of_materials(directory: Path, manifest: Manifest, repo_id: str) -> dict[str, Content]:
    """Return the bill of materials, made anew."""
    if not can_make_bom():
        return {}
    try:
        return {BOM: bom(manifest, repo_id).encode()}
    except FtplugError as error:  # it is an addition: without it the artifact is whole
        logger.warning("%s: published without a bill of materials: %s", directory, error)
        return {}


def _refuse_strays(directory: Path, files: Mapping[str, Content]) -> None:
    """Name what is in the folder and belongs to nothing."""
    known = {*files, CARD, *CARD_PICTURES, *SIGNATURES, BOM}  # an old picture is no stray
    strays = [name for name in _files_in(directory) if name not in known]
    if strays:
        pickles = [name for name in strays if is_pickle(name)]
        kind = "a pickle" if pickles else "neither in the manifest nor part of the card"
        more = f" (and {len(strays) - 1} more)" if len(strays) > 1 else ""
        raise RegistryError(
            f"{directory}: {(pickles or strays)[0]} is {kind}{more}: move it away, or save the "
            "artifact into a folder of its own"
        )


def _files_in(directory: Path) -> Iterator[str]:
    """Yield the files of a folder, without what the Trainer and git keep to themselves."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        hidden = any(part.startswith((".", "_")) for part in name.parts)
        if not hidden and not name.parts[0].startswith("checkpoint-") and not path.is_dir():
            yield name.as_posix()
