"""Fetching an artifact: through the Hub's cache, checked before anyone can load it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ftplug.artifacts.card import CARD
from ftplug.artifacts.manifest import LARGEST, MANIFEST, Manifest, read_manifest
from ftplug.artifacts.notices.reading import Notice, tell
from ftplug.artifacts.signatures import SIGNATURE, SIGNATURES
from ftplug.errors import ArtifactError, RegistryError
from ftplug_registry.contents import card_images
from ftplug_registry.hub import Hub, check_repo_id
from ftplug_registry.pulling.copying import copy_to_folder, require_free
from ftplug_registry.pulling.notices import notice_of, withdrawn_tags_named
from ftplug_registry.pulling.plain_peft import PLAIN, plain_files
from ftplug_registry.pulling.signature import (
    check_pulled,
    fetch_signature,
    fetched_beside,
    repository_of,
    shown_and_signed,
    signed_beside,
)
from ftplug_registry.pulling.source import Source, check_place
from ftplug_registry.signing.checking import Demand, Signed, expects_signature

_LARGEST_CARD = 2**20  # bytes; a picture may have eight times as many


@dataclass(frozen=True)
class Snapshot:
    """A verified artifact on this machine; ``manifest`` is None for a plain PEFT repository.

    ``signed`` is what its signature says, if it has one; ``notice`` what its publisher says of it
    since (deprecated, withdrawn), which nobody signed.
    """

    repo_id: str
    sha: str
    path: Path
    files: tuple[str, ...]
    manifest: Manifest | None
    signed: Signed | None = None
    notice: Notice | None = None


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    to: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    allow_pickle: bool = False,
    require_signature: bool = False,
    trusted: str | os.PathLike[str] | None = None,
    allow_unsigned: bool = False,
    token: str | None = None,
    hub: Hub | None = None,
) -> Path:
    """Fetch an artifact by branch, tag or commit sha, verify it, and return its folder.

    The folder is in the Hub's cache, so a second pull, also one without a network, costs nothing.
    ``to`` copies it into a folder of its own, complete or not at all: another artifact that is
    there is replaced only where ``overwrite`` says so, anything else never. ``force`` downloads
    anew, which cures a damaged cache. Only what manifest and card name is fetched. A plain PEFT
    repository (no manifest) is fetched as it is; ``allow_pickle`` accepts pickled weights, which
    ``torch.load(weights_only)`` reads.

    A signature that is there is checked, and who made it is pinned for this repository: later it
    must be the same. ``require_signature`` refuses an artifact without one that counts; ``trusted``
    is a file or folder of keys of which one must have signed; ``allow_unsigned`` accepts a revision
    of before the first signed one. What its publisher says of it since (deprecated, withdrawn) is
    warned of, and refuses nothing.

    Raises :class:`RegistryError` or :class:`ArtifactError` where anything is missing, altered or
    not to be trusted, :class:`PluginError` where a method of it is not installed.
    """
    return snapshot(
        repo_id,
        revision,
        to=to,
        force=force,
        overwrite=overwrite,
        allow_pickle=allow_pickle,
        demand=Demand(trusted, require_signature, allow_unsigned),
        hub=hub or Hub(token=token),
    ).path


def snapshot(
    repo_id: str,
    revision: str | None = None,
    *,
    to: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    allow_pickle: bool = False,
    demand: Demand | None = None,
    hub: Hub | None = None,
) -> Snapshot:
    """Do what :func:`pull` does, and return commit and manifest with the folder."""
    hub, demand = hub or Hub(), demand or Demand()
    check_repo_id(repo_id)
    target = Path(to) if to is not None else None
    if target is not None:
        require_free(target)
    with hub.stated_errors("pull", repo_id):
        with withdrawn_tags_named(hub, repo_id, revision):
            source = Source.resolve(hub, repo_id, revision, force=force)
        expected = expects_signature(repository_of(source), demand)
        fetched = None if force else _cached(source, signed=expected)
        cached = fetched is not None
        if fetched is None:
            if force and source.listing is None:
                raise RegistryError(f"{repo_id}: the Hub cannot be reached to download it anew")
            fetched = _artifact(source) if source.has(MANIFEST) else _plain(source, allow_pickle)
        signed = check_pulled(source, fetched.path, fetched.files, fetched.manifest, demand)
        notice = notice_of(source, revision, fetched.path, cached=cached)
        fetched = replace(fetched, signed=signed, notice=notice)
    tell(repo_id, notice)
    if target is None:
        return fetched
    copy_to_folder(fetched.path, fetched.files, fetched.manifest, target, overwrite=overwrite)
    return replace(fetched, path=target)


def manifest_at(
    repo_id: str, revision: str | None = None, hub: Hub | None = None
) -> tuple[Manifest, str]:
    """Fetch the manifest alone; return it and the commit's sha."""
    hub = hub or Hub()
    check_repo_id(repo_id)
    with hub.stated_errors("show", repo_id):
        source = Source.resolve(hub, repo_id, revision)
        if not source.has(MANIFEST):
            source.forget()
            raise RegistryError(f"{repo_id} has no {MANIFEST}: not published by ftplug")
        return read_manifest(source.fetch([MANIFEST], quiet=True)), source.sha


def signed_manifest_at(
    repo_id: str, revision: str | None = None, hub: Hub | None = None
) -> tuple[Manifest, str, Signed | None]:
    """Do what :func:`manifest_at` does, and check the signature of the manifest, if any."""
    hub = hub or Hub()
    manifest, sha = manifest_at(repo_id, revision, hub)
    with hub.stated_errors("show", repo_id):
        source = Source.resolve(hub, repo_id, sha)
        folder = source.fetch([MANIFEST, *fetch_signature(source)], quiet=True)
        names = [MANIFEST, *manifest.files]
        return manifest, sha, check_pulled(source, folder, names, manifest, Demand())


def _cached(source: Source, *, signed: bool) -> Snapshot | None:
    """Return the artifact if the cache holds all of it: a commit never changes."""
    if (path := source.cached(MANIFEST)) is None:
        return None
    if signed and source.cached(SIGNATURE) is None:
        return None
    try:
        manifest = read_manifest(path.parent, plugins=False)
        names = [MANIFEST, *manifest.files]
        if not all((path.parent / name).is_file() for name in names):
            return None
        beside = [name for name in sorted(SIGNATURES) if source.cached(name)]
        if SIGNATURE in beside:
            beside += signed_beside(path.parent, manifest)
            if not all((path.parent / name).is_file() for name in beside):
                return None
        if (path.parent / CARD).is_file():
            shown = shown_and_signed(path.parent, _images(path.parent), SIGNATURE in beside)
            names += [name for name in (CARD, *shown) if (path.parent / name).is_file()]
        names = list(dict.fromkeys([*names, *beside]))
        for name in names:
            check_place(path.parent, name)
        return _verified(source, path.parent, names, manifest)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; if the cache is damaged: pull it with --force") from error


def _artifact(source: Source) -> Snapshot:
    """Fetch and verify what the manifest names: sizes before the download, hashes after it."""
    if source.size(MANIFEST) > LARGEST:
        raise RegistryError(f"{source.repo_id}: its {MANIFEST} is too large to be one")
    manifest = read_manifest(source.fetch([MANIFEST], quiet=True), plugins=False)
    for name, entry in manifest.files.items():
        there = source.listing.get(name) if source.listing else None
        if there is not None and there.size != entry["size"]:
            raise RegistryError(
                f"{source.repo_id}: {name} has {there.size} bytes, but the manifest says "
                f"{entry['size']}: altered, or a link; nothing of it was downloaded"
            )
        if there is not None and there.lfs and there.lfs.sha256 != entry["sha256"]:
            raise RegistryError(
                f"{source.repo_id}: {name} has another sha256 than the manifest says: altered; "
                "it was not downloaded"
            )
    names = [MANIFEST, *manifest.files, *_beside(source, manifest)]
    return _verified(source, source.fetch(names), names, manifest)


def _beside(source: Source, manifest: Manifest) -> list[str]:
    """Return the card and its pictures, and of a signed artifact all else that was signed."""
    signature = fetch_signature(source)
    card = _card(source, signed=bool(signature))
    if not signature:
        return card
    folder = source.fetch([MANIFEST, *signature], quiet=True)
    return list(dict.fromkeys([*card, *fetched_beside(source, folder, manifest), *signature]))


def _verified(source: Source, folder: Path, names: list[str], manifest: Manifest) -> Snapshot:
    manifest.verify_files(folder)
    return Snapshot(source.repo_id, source.sha, folder, tuple(names), manifest)


def _card(source: Source, *, signed: bool) -> list[str]:
    """Return the card and the pictures it shows, where they are of a size to be that."""
    if not source.has(CARD) or source.size(CARD) > _LARGEST_CARD:
        return []
    folder = source.fetch([CARD], quiet=True)
    shown = shown_and_signed(folder, _images(folder), signed)
    return [CARD, *(n for n in shown if source.has(n) and source.size(n) <= 8 * _LARGEST_CARD)]


def _images(folder: Path) -> list[str]:
    return card_images((folder / CARD).read_text(encoding="utf-8", errors="replace"))


def _plain(source: Source, allow_pickle: bool) -> Snapshot:
    """Fetch a repository that ftplug did not make, if peft can read it."""
    if not source.has(PLAIN):
        source.forget()
        raise RegistryError(
            f"{source.repo_id} has neither {MANIFEST} nor {PLAIN}: no artifact of ftplug or peft"
        )
    names = plain_files(source.repo_id, source.has, allow_pickle=allow_pickle)
    names += fetch_signature(source)
    return Snapshot(source.repo_id, source.sha, source.fetch(names), tuple(names), None)
