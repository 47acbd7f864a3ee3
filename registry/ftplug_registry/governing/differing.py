"""Two artifacts side by side: what differs in settings, metrics, base, versions and files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ftplug.errors import RegistryError
from ftplug_registry.governing.changes import Change, changes
from ftplug_registry.hub import Hub
from ftplug_registry.showing import show


@dataclass(frozen=True)
class Difference:
    """The two artifacts as they were found (a commit's sha for a repository), and what differs."""

    first: str
    second: str
    changes: tuple[Change, ...]


def diff(first: str, second: str, *, hub: Hub | None = None) -> Difference:
    """Compare two artifacts by their manifests, of which nothing else is fetched.

    Each is a folder, ``org/name``, or ``org/name@REVISION``. Raises :class:`RegistryError` or
    :class:`ArtifactError`.
    """
    contents = [_shown(one, hub) for one in (first, second)]
    places = [f"{one['artifact']}@{one['sha'][:12]}" if one["sha"] else one["artifact"]
              for one in contents]  # fmt: skip
    return Difference(places[0], places[1], tuple(changes(*contents)))


def _shown(text: str, hub: Hub | None) -> dict[str, Any]:
    """Return the facts of one of the two; what is wrong with it names it as it was given."""
    from huggingface_hub.errors import RevisionNotFoundError

    artifact, revision = named(text)
    try:
        return show(artifact, revision, hub=hub)
    except RegistryError as error:
        said = str(error).removeprefix(f"show {artifact}: ")
        if isinstance(error.__cause__, RevisionNotFoundError):
            said = "no such branch, tag or commit: check what follows the @"
        raise RegistryError(f"diff {text}: {said}") from error


def named(text: str) -> tuple[str, str | None]:
    """Return an artifact and its revision: what follows an ``@`` that is no part of a path."""
    artifact, at, revision = text.rpartition("@")
    if not at or not artifact or os.path.exists(text):
        return text, None
    if not revision:
        raise RegistryError(f"diff {text}: a branch, tag or commit is missing after the @")
    return artifact, revision
