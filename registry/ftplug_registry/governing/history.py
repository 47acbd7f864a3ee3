"""The versions of a repository: who published which when, and what changed in it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.digests import sha256
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.notices.reading import Notice, notice_in
from ftplug.errors import ArtifactError, RegistryError
from ftplug_registry.governing.changes import Change, changes
from ftplug_registry.governing.repository import Governed
from ftplug_registry.hub import Hub, check_repo_id

if TYPE_CHECKING:
    from huggingface_hub.hf_api import GitCommitInfo

_AT_ONCE = 4  # commits that are asked for at the same time


@dataclass(frozen=True)
class Version:
    """One commit; ``changes`` are those of the manifest since the commit before it.

    ``state`` is ``artifact`` where the commit holds a manifest, ``none`` or ``unreadable``;
    ``is_first`` where no earlier commit holds one.
    """

    commit: str
    tags: tuple[str, ...]
    when: datetime
    who: tuple[str, ...]
    title: str
    state: str
    notice: Notice | None
    changes: tuple[Change, ...]
    is_first: bool


@dataclass(frozen=True)
class History:
    """Versions, newest first; ``more`` tells whether there are older ones."""

    versions: tuple[Version, ...]
    more: bool


@dataclass(frozen=True)
class _Held:
    """What a commit holds: the manifest, and the sha256 of its file."""

    state: str
    manifest: Manifest | None = None
    digest: str | None = None


def history(
    repo_id: str, revision: str | None = None, *, limit: int = 20, hub: Hub | None = None
) -> History:
    """Return the latest commits of a branch, each with what it changed in the artifact.

    Of each commit the manifest alone is fetched, once: a commit never changes. What main's card
    says of a version (withdrawn, deprecated) goes with it. Raises :class:`RegistryError`.
    """
    hub = hub or Hub()
    check_repo_id(repo_id)
    if limit < 1:
        raise RegistryError("history: --limit is a positive number")
    repository = Governed(hub, repo_id)
    with hub.stated_errors("history of", repo_id):
        notices = repository.notices()  # first: without a network it fails at once
        commits = repository.commits(revision)
        tags = repository.tag_commits(commits)
        known = _manifests(repository, [commit.commit_id for commit in commits[: limit + 1]])
        versions = []
        for number, commit in enumerate(commits[:limit]):
            held, older = known[number], known[number + 1 :]
            is_first = len(known) == len(commits) and all(one.state == "none" for one in older)
            notice = notice_in(notices, manifest=held.digest, commit=commit.commit_id)
            versions.append(_version(commit, tags, held, older[:1], is_first, notice))
    return History(tuple(versions), len(commits) > limit)


def _version(
    commit: GitCommitInfo,
    tags: dict[str, str],
    held: _Held,
    before: Sequence[_Held],
    is_first: bool,
    notice: Notice | None,
) -> Version:
    manifest = held.manifest
    values = _values(before[0].manifest if before else None)
    return Version(
        commit=commit.commit_id,
        tags=tuple(sorted(name for name, at in tags.items() if at == commit.commit_id)),
        when=commit.created_at,
        who=tuple(commit.authors),
        title=commit.title,
        state=held.state,
        notice=notice if manifest else None,
        changes=tuple(changes(values, _values(manifest))) if manifest else (),
        is_first=is_first and manifest is not None,
    )


def _values(manifest: Manifest | None) -> dict[str, Any] | None:
    return asdict(manifest) if manifest else None


def _manifests(repository: Governed, commits: list[str]) -> list[_Held]:
    """Return what commits hold, in their order; several are asked for at the same time."""
    with ThreadPoolExecutor(_AT_ONCE, "ftplug-history") as pool:
        return list(pool.map(lambda commit: _manifest(repository, commit), commits))


def _manifest(repository: Governed, commit: str) -> _Held:
    """Return a commit's manifest, and whether there is one that can be read."""
    if (path := repository.file(MANIFEST, commit)) is None:
        return _Held("none")
    digest = sha256(path)
    try:
        return _Held("artifact", read_manifest(path.parent, plugins=False), digest)
    except ArtifactError:
        return _Held("unreadable", None, digest)
