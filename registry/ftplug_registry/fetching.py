"""Fetching an artifact: through the Hub's cache, checked before anyone can load it."""

from __future__ import annotations

import dataclasses
import glob
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.card import CARD, CURVE, is_generated
from ftplug.errors import ArtifactError, MissingMethodError, RegistryError
from ftplug.files import staged, stated
from ftplug.loading import methods_of
from ftplug.manifest import LARGEST, MANIFEST, Manifest, read_manifest
from ftplug_registry.contents import card_images
from ftplug_registry.hub import Hub, check_repo_id
from ftplug_registry.plain_peft import PLAIN, plain_files

if TYPE_CHECKING:
    from huggingface_hub import ResolvedRevision
    from huggingface_hub.hf_api import RepoFile

_LARGEST_CARD = 2**20  # bytes; a picture may have eight times as many


@dataclass(frozen=True)
class Snapshot:
    """A verified artifact on this machine; ``manifest`` is None for a plain PEFT repository."""

    repo_id: str
    sha: str
    path: Path
    files: tuple[str, ...]
    manifest: Manifest | None


def pull(
    repo_id: str,
    revision: str | None = None,
    *,
    to: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    allow_pickle: bool = False,
    token: str | None = None,
    hub: Hub | None = None,
) -> Path:
    """Fetch an artifact by branch, tag or commit sha, verify it, and return its folder.

    The folder is in the Hub's cache, so a second pull, also one without a network, costs nothing;
    ``to`` copies it into a folder of its own, complete or not at all; a folder that holds anything
    else, another artifact too, is replaced only where ``overwrite`` says so. ``force`` downloads
    anew, which cures a damaged cache. Only what manifest and card name is fetched. A plain PEFT
    repository (no manifest) is fetched as it is; ``allow_pickle`` accepts pickled weights, which
    ``torch.load(weights_only)`` reads.

    Raises :class:`RegistryError` or :class:`ArtifactError` where anything is missing, altered or
    not to be trusted, :class:`PluginError` where a method of it is not installed.
    """
    hub = hub or Hub(token=token)
    return snapshot(
        repo_id,
        revision,
        to=to,
        force=force,
        overwrite=overwrite,
        allow_pickle=allow_pickle,
        hub=hub,
    ).path


def snapshot(
    repo_id: str,
    revision: str | None = None,
    *,
    to: str | Path | None = None,
    force: bool = False,
    overwrite: bool = False,
    allow_pickle: bool = False,
    hub: Hub | None = None,
) -> Snapshot:
    """Do what :func:`pull` does, and return commit and manifest with the folder."""
    hub, revision = hub or Hub(), revision or None
    check_repo_id(repo_id)
    target = _free(Path(to)) if to is not None else None
    with hub.stated("pull", repo_id):
        resolved = hub.api.resolve_revision(repo_id, revision=revision, cache_dir=hub.cache_dir)
        found = None if force else _cached(hub, repo_id, resolved.resolved)
        if found is None:
            source = _Source(hub, repo_id, resolved, _listing(hub, repo_id, resolved), force)
            if force and source.listing is None:
                raise RegistryError(f"{repo_id}: the Hub cannot be reached to download it anew")
            found = _artifact(source) if source.has(MANIFEST) else _plain(source, allow_pickle)
    return _copied(found, target, overwrite=overwrite) if target is not None else found


def manifest_at(repo_id: str, revision: str | None = None, hub: Hub | None = None) -> Snapshot:
    """Fetch the manifest alone, and check what it says of itself."""
    hub, revision = hub or Hub(), revision or None
    check_repo_id(repo_id)
    with hub.stated("show", repo_id):
        resolved = hub.api.resolve_revision(repo_id, revision=revision, cache_dir=hub.cache_dir)
        source = _Source(hub, repo_id, resolved, _listing(hub, repo_id, resolved), False)
        if not source.has(MANIFEST):
            raise RegistryError(f"{repo_id} has no {MANIFEST}: not published by ftplug")
        folder = source.fetch([MANIFEST], quiet=True)
    return Snapshot(repo_id, resolved.resolved, folder, (MANIFEST,), read_manifest(folder))


def _cached(hub: Hub, repo_id: str, sha: str) -> Snapshot | None:
    """Return the artifact of a commit if the cache holds all of it: a commit never changes."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repo_id, MANIFEST, cache_dir=hub.cache_dir, revision=sha)
    if not isinstance(path, str):
        return None
    folder = Path(path).parent
    try:
        return _verified(repo_id, sha, folder)
    except MissingMethodError:
        raise
    except ArtifactError as error:
        raise ArtifactError(
            f"{error}; if only the cache is damaged: pull it with --force"
        ) from error


def _verified(repo_id: str, sha: str, folder: Path) -> Snapshot | None:
    """Return a folder of the cache as an artifact, or None where part of it was not fetched."""
    manifest = read_manifest(folder)
    names = [MANIFEST, *manifest.files]
    if not all((folder / name).is_file() for name in names):
        return None
    if (folder / CARD).is_file():
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
        names += [n for n in (CARD, *card_images(text)) if (folder / n).is_file()]
    for name in names:
        _check_place(folder, name)
    methods_of(manifest, Path(repo_id))
    manifest.verify_files(folder)
    return Snapshot(repo_id, sha, folder, tuple(names), manifest)


def _check_place(folder: Path, name: str) -> None:
    """A file of the cache is a link to its content there, and to nothing else."""
    real = Path(os.path.realpath(folder / name))
    if not real.is_relative_to(os.path.realpath(folder.parent.parent)):
        raise RegistryError(f"{folder}: {name} is a link out of the cache: pull with --force")


@dataclass(frozen=True)
class _Source:
    """One commit of a repository; ``listing`` is None where the Hub cannot be reached."""

    hub: Hub
    repo_id: str
    revision: ResolvedRevision
    listing: Mapping[str, RepoFile] | None
    force: bool

    def has(self, name: str) -> bool:
        """Whether the commit has a file; without a network, whether the cache has it."""
        if self.listing is not None:
            return name in self.listing
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            self.repo_id, name, cache_dir=self.hub.cache_dir, revision=self.revision.resolved
        )
        return isinstance(cached, str)

    def size(self, name: str) -> int | None:
        """Return a file's bytes where the Hub told them."""
        entry = self.listing.get(name) if self.listing else None
        return entry.size if entry else None

    def fetch(self, names: list[str], *, quiet: bool = False) -> Path:
        """Download these files into the cache, and return the commit's folder there."""
        from huggingface_hub.utils.tqdm import tqdm

        for name in names:
            if self.listing is not None and name not in self.listing:
                raise RegistryError(f"{self.repo_id}: {name} is missing from the repository")
            if self.force:
                self._forget(name)
        folder = self.hub.api.snapshot_download(
            self.repo_id,
            revision=self.revision.resolved,
            cache_dir=self.hub.cache_dir,
            allow_patterns=[glob.escape(name) for name in names],
            force_download=self.force and self.listing is not None,
            local_files_only=self.listing is None,
            tqdm_class=partial(tqdm, disable=True) if quiet else None,  # type: ignore[arg-type]
        )
        for name in names:
            _check_place(Path(folder), name)
        return Path(folder)

    def _forget(self, name: str) -> None:
        """Remove a file's entry in the cache, which may be somebody's link to elsewhere."""
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(
            self.repo_id, name, cache_dir=self.hub.cache_dir, revision=self.revision.resolved
        )
        if isinstance(cached, str):
            Path(cached).unlink(missing_ok=True)


def _listing(hub: Hub, repo_id: str, resolved: ResolvedRevision) -> Mapping[str, RepoFile] | None:
    """Return the files of a commit with their sizes; None without a network."""
    import httpx2
    from huggingface_hub import errors
    from huggingface_hub.hf_api import RepoFile

    try:
        tree = hub.api.list_repo_tree(repo_id, revision=resolved.resolved, recursive=True)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    except (errors.OfflineModeIsEnabled, httpx2.ConnectError, httpx2.TimeoutException):
        return None


def _artifact(source: _Source) -> Snapshot:
    """Fetch and verify what the manifest names: sizes before the download, hashes after it."""
    if (source.size(MANIFEST) or 0) > LARGEST:
        raise RegistryError(f"{source.repo_id}: its {MANIFEST} is too large to be one")
    manifest = read_manifest(source.fetch([MANIFEST], quiet=True))
    methods_of(manifest, Path(source.repo_id))
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
    names = [MANIFEST, *manifest.files, *_card(source)]
    folder = source.fetch(names)
    manifest.verify_files(folder)
    return Snapshot(source.repo_id, source.revision.resolved, folder, tuple(names), manifest)


def _card(source: _Source) -> list[str]:
    """Return the card and the pictures it shows, where they are of a size to be that."""
    if not source.has(CARD) or (source.size(CARD) or 0) > _LARGEST_CARD:
        return []
    text = (source.fetch([CARD], quiet=True) / CARD).read_text(encoding="utf-8", errors="replace")
    pictures = [name for name in card_images(text) if source.has(name)]
    return [CARD, *(n for n in pictures if (source.size(n) or 0) <= 8 * _LARGEST_CARD)]


def _plain(source: _Source, allow_pickle: bool) -> Snapshot:
    """Fetch a repository that ftplug did not make, if peft can read it."""
    if not source.has(PLAIN):
        raise RegistryError(
            f"{source.repo_id} has neither {MANIFEST} nor {PLAIN}: no artifact of ftplug or peft"
        )
    names = plain_files(source.repo_id, source.has, allow_pickle=allow_pickle)
    folder = source.fetch(names)
    return Snapshot(source.repo_id, source.revision.resolved, folder, tuple(names), None)


def _free(target: Path) -> Path:
    """Refuse to write into a folder that holds something else."""
    if os.path.islink(target) and not target.exists():
        raise RegistryError(f"{target} is a link that leads nowhere: choose another --to")
    if target.exists() and not target.is_dir():
        raise RegistryError(f"{target} is a file: choose another --to")
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise RegistryError(f"{target} is not empty and no artifact: choose another --to")
    return target


def _listed(target: Path) -> set[str]:
    try:
        return set(read_manifest(target).files)
    except ArtifactError:
        return set()  # not readable: it is about to be replaced


def _copied(found: Snapshot, target: Path, *, overwrite: bool) -> Snapshot:
    """Copy a snapshot out of the cache; the copy takes its name only once it is verified.

    Where the folder holds this very artifact it is made sound again, and an edited card stays.
    """
    obsolete, kept = set[str](), set[str]()
    if (there := target / MANIFEST).is_file():
        same = (
            there.read_bytes() == (found.path / MANIFEST).read_bytes() if found.manifest else False
        )
        if not same and not overwrite:
            raise RegistryError(
                f"{target} holds another artifact, or another version: choose another --to, or let "
                "it be replaced with --overwrite"
            )
        obsolete = _listed(target) | {CARD, CURVE} if not same else set()
        card = target / CARD
        if same and card.is_file() and not is_generated(card.read_text("utf-8", "replace")):
            kept = {CARD, CURVE}
    with stated(target), staged(target, last=MANIFEST, obsolete=obsolete) as stage:
        for name in found.files:
            if name in kept:
                continue
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.path / name, stage / name)
        if found.manifest is not None:
            found.manifest.verify_files(stage)
    return dataclasses.replace(found, path=target)
