"""Deprecating a repository, and taking that back: its card's metadata, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from ftplug.artifacts.notices.lines import DEPRECATED
from ftplug_registry.governing.repository import (
    Governed,
    Notices,
    checked_use,
    checked_why,
    entry_of,
)
from ftplug_registry.hub import Hub, check_repo_id


@dataclass(frozen=True)
class Deprecation:
    """What was said; ``commit`` is None where the card said so already."""

    repo_id: str
    why: str | None
    use: str | None
    commit: str | None


def deprecate(
    repo_id: str, why: str, *, use: str | None = None, hub: Hub | None = None
) -> Deprecation:
    """Say on the card of a repository that it should not be used any more, and why.

    One commit of ``README.md`` alone: ``ftplug_deprecated: {why, use}`` in its metadata. Manifest,
    weights and signature stay as they are, so ``verify`` passes as before. ``use`` names another
    repository. Later pushes keep it until :func:`undeprecate`. Raises :class:`RegistryError`.
    """
    hub = hub or Hub()
    check_repo_id(repo_id)
    why = checked_why(why, "deprecate")
    use = checked_use(hub, use, repo_id, "deprecate")
    entry = dict(entry_of(why, use))

    def change(notices: Notices) -> Notices:
        return {**notices, DEPRECATED: entry}

    with hub.stated_errors("deprecate", repo_id):
        commit = Governed(hub, repo_id).say(change, "Deprecate", why)
    return Deprecation(repo_id, why, use, commit)


def undeprecate(repo_id: str, *, hub: Hub | None = None) -> Deprecation:
    """Take a deprecation back: the card is to the byte what it was without it."""
    hub = hub or Hub()
    check_repo_id(repo_id)

    def change(notices: Notices) -> Notices:
        return {key: value for key, value in notices.items() if key != DEPRECATED}

    with hub.stated_errors("deprecate --undo", repo_id):
        commit = Governed(hub, repo_id).say(change, "Take the deprecation back")
    return Deprecation(repo_id, None, None, commit)
