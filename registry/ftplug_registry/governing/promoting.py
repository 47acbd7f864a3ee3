"""Promoting a version: a tag that others pull by, and that moves only when it is told to."""

from __future__ import annotations

from dataclasses import dataclass

from ftplug.artifacts.notices.reading import notice_in, tell
from ftplug.errors import RegistryError
from ftplug_registry.governing.repository import Governed
from ftplug_registry.hub import Hub, check_ref, check_repo_id, refuse_beside, status_of


@dataclass(frozen=True)
class Promotion:
    """What a tag points to now, and what it pointed to before (None: it is new)."""

    repo_id: str
    tag: str
    commit: str
    before: str | None

    @property
    def changed(self) -> bool:
        """Whether the tag was made or moved."""
        return self.before != self.commit


def promote(
    repo_id: str, revision: str, tag: str, *, move: bool = False, hub: Hub | None = None
) -> Promotion:
    """Let a tag such as ``production`` point to the commit of a branch, a tag or a sha.

    A tag that points elsewhere is left alone unless ``move`` says so. Git has no atomic move of a
    tag through the Hub's API: it is deleted and made anew, and where making it fails the old one is
    put back, or the error says how. A commit without an artifact and a version that was withdrawn
    are refused, one of a deprecated repository is warned of. Raises :class:`RegistryError`.
    """
    hub = hub or Hub()
    check_repo_id(repo_id)
    check_ref("tag", tag)
    if tag.startswith("refs/"):
        raise RegistryError(f"promote: {tag!r} is no name for a tag: the Hub keeps refs/ to itself")
    repository = Governed(hub, repo_id)
    with hub.stated_errors(f"promote {revision} of", repo_id):
        commit = repository.commit_of(revision)
        if tag in repository.branches():
            raise RegistryError(f"{repo_id}: {tag} is a branch: choose another name with --as")
        repository.require_artifact(revision, commit)
        _refuse_withdrawn(repository, revision, commit)
        tags = repository.tags()
        refuse_beside(repo_id, tag, tags)
        before = repository.commit_of(tag) if tag in tags else None
    if before is not None and before != commit:
        if not move:
            raise RegistryError(
                f"{repo_id}: {tag} points to {before[:12]}, not to {commit[:12]}: nothing was "
                "changed; --move moves it"
            )
        with hub.stated_errors(f"promote {revision} of", repo_id):
            hub.api.delete_tag(repo_id, tag=tag)
    if before != commit:
        _make(repository, tag, commit, before)
    return Promotion(repo_id, tag, commit, before)


def _refuse_withdrawn(repository: Governed, revision: str, commit: str) -> None:
    digest = repository.manifest_digest(commit)
    notice = notice_in(repository.notices(), manifest=digest, commit=commit)
    if notice is not None and notice.kind == "withdrawn":
        raise RegistryError(
            f"{repository.repo_id}: {revision} was withdrawn: {notice.why}: promote another one, "
            "or take that back with ftplug withdraw --undo"
        )
    tell(repository.repo_id, notice)


def _make(repository: Governed, tag: str, commit: str, before: str | None) -> None:
    """Make a tag; where that fails the old one comes back, if it can."""
    hub, repo_id = repository.hub, repository.repo_id
    try:
        with hub.stated_errors("promote", repo_id):
            hub.api.create_tag(repo_id, tag=tag, revision=commit)
    except RegistryError as error:
        refused = error.__cause__
        if isinstance(refused, Exception) and status_of(refused) == 409:
            raise RegistryError(
                f"{repo_id}: somebody else set {tag} meanwhile: see ftplug history {repo_id}, then "
                "promote again if yours shall count"
            ) from error
        if before is None:
            raise
        raise RegistryError(f"{error}; {_put_back(repository, tag, before)}") from error


def _put_back(repository: Governed, tag: str, before: str) -> str:
    """Return what became of a tag that could not be moved."""
    hub, repo_id = repository.hub, repository.repo_id
    try:
        with hub.stated_errors("promote", repo_id):
            hub.api.create_tag(repo_id, tag=tag, revision=before)
    except RegistryError:
        there = f"ftplug promote {repo_id} --revision {before} --as {tag}"
        return f"{tag} is gone now: put it back with {there}"
    return f"{tag} points to {before[:12]} as before"
