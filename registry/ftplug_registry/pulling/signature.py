"""The signature of what is pulled: its files are fetched, bounded, and checked with the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ftplug.artifacts.card import CARD
from ftplug.artifacts.file_names import check_file_name
from ftplug.artifacts.manifest import MANIFEST, Manifest
from ftplug.artifacts.signatures import PROVENANCE, SIGNATURE
from ftplug.errors import RegistryError
from ftplug_registry.inspection import PICTURES
from ftplug_registry.pulling.source import Source
from ftplug_registry.signing.bundles import LARGEST
from ftplug_registry.signing.checking import Demand, Signed, check_artifact, covered_by
from ftplug_registry.signing.pins import Repository

_LARGEST_BESIDE = 8 * 2**20  # bytes
_MOST_BESIDE = 100


def fetch_signature(source: Source) -> list[str]:
    """Fetch the signature's files and return their names; one too large is refused before."""
    names = [name for name in (SIGNATURE, PROVENANCE) if source.has(name)]
    for name in names:
        if (size := source.size(name)) > LARGEST:
            raise RegistryError(
                f"{source.repo_id}: {name} has {size:,} bytes, too many for a signature; nothing "
                "was downloaded"
            )
    if names:
        source.fetch(names, quiet=True)
    return names if SIGNATURE in names else []


def shown_and_signed(folder: Path, pictures: Iterable[str], signed: bool) -> list[str]:
    """Return the pictures of a card that belong to the artifact: of a signed one those signed."""
    if not signed:
        return list(pictures)
    covered = covered_by(folder)
    return [name for name in pictures if name in covered]


def signed_beside(folder: Path, manifest: Manifest) -> list[str]:
    """Return what was signed and stands not in the manifest: pictures, a bill of materials.

    Without them another program than ftplug would miss them. What else was signed is of no use
    here, and stays away.
    """
    names = sorted(covered_by(folder) - manifest.files.keys() - {MANIFEST, CARD})
    for name in names[:_MOST_BESIDE]:
        check_file_name(folder / SIGNATURE, name)
    kinds = PICTURES | {".json"}
    return [n for n in names[:_MOST_BESIDE] if PurePosixPath(n).suffix.lower() in kinds]


def fetched_beside(source: Source, folder: Path, manifest: Manifest) -> list[str]:
    """Return those of them that the repository has, in a size for what they are."""
    names = signed_beside(folder, manifest)
    return [n for n in names if source.has(n) and source.size(n) <= _LARGEST_BESIDE]


def repository_of(source: Source) -> Repository:
    """Return what a pin knows a commit by."""
    return Repository(source.hub.api_endpoint, source.repo_id, source.sha)


def check_pulled(
    source: Source, folder: Path, names: Iterable[str], manifest: Manifest | None, demand: Demand
) -> Signed | None:
    """Check the signature of what was fetched, against what is known of its repository."""
    return check_artifact(
        folder,
        names,
        manifest,
        demand=demand,
        repository=repository_of(source),
        is_older=_older_than(source),
    )


def _older_than(source: Source) -> Callable[[str], bool]:
    """Tell by the Hub's history whether the commit that is pulled came before another."""

    def is_older(commit: str) -> bool:
        if commit == source.sha:
            return False
        commits = source.hub.api.list_repo_commits(source.repo_id, revision=commit)
        return source.sha in {one.commit_id for one in commits}

    return is_older
