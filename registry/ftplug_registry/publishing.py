"""Publishing an artifact: one atomic commit on top of what is there, complete or not at all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifact import annotate
from ftplug.context import logger
from ftplug.errors import ArtifactError, RegistryError
from ftplug.manifest import MANIFEST, read_manifest
from ftplug_registry.contents import Content, contents, size_of
from ftplug_registry.credentials import credential_in
from ftplug_registry.hub import Hub, check_ref, check_repo_id, status_of

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelInfo

_PATIENCE = 120.0  # seconds of trying while others push to the same branch


@dataclass(frozen=True)
class Published:
    """What a push did: ``changed`` is False where the branch held all of it already."""

    repo_id: str
    url: str
    branch: str
    sha: str
    files: Mapping[str, int]
    removed: tuple[str, ...]
    changed: bool
    commit: CommitInfo = field(repr=False)


def push(
    directory: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    tag: str | None = None,
    author: Mapping[str, Any] | None = None,
    message: str | None = None,
    strays: bool = False,
    token: str | None = None,
    hub: Hub | None = None,
    announce: Callable[[Mapping[str, int], str], None] | None = None,
) -> Published:
    """Publish an artifact folder as one commit, and return where it is.

    ``revision`` is the branch (made where it is missing), ``tag`` names the new version,
    ``author`` holds ``notes`` and other words of the author for the card, which are noted in the
    folder as well. The commit states the parent it builds on: where somebody else pushed meanwhile
    it is refused, and made anew on top of theirs; history stays linear and nothing is lost. Files
    of the artifact published before that this one no longer has go with the same commit.
    ``announce`` is told the names, sizes and address before anything is sent.

    Raises :class:`RegistryError` or :class:`ArtifactError`; the branch is then as it was.
    """
    hub, folder, branch = hub or Hub(token=token), Path(directory), revision or "main"
    check_repo_id(repo_id)
    check_ref("branch", branch)
    check_ref("tag", tag)
    manifest = read_manifest(folder)
    with hub.stated("push to", repo_id):
        base_license = None
        if manifest.base["id"] and not manifest.base.get("license"):
            base_license = license_of(hub, manifest.base["id"])
        files = contents(folder, repo_id, author, base_license=base_license, strays=strays)
        sizes = {name: size_of(content) for name, content in sorted(files.items())}
        if announce:
            announce(sizes, hub.url(repo_id))
        title = str(message or f"Publish {manifest.method_names}")
        if found := credential_in(title):
            raise RegistryError(f"the commit message holds {found}: history would keep it")
        head = _open(hub, repo_id, branch, private=private, tag=tag)
        commit, removed, parent = _commit(hub, repo_id, branch, head, files, title)
        if author:  # kept beside the artifact too, or the next push would take it back
            _note(folder, author)
        if tag:
            _tag(hub, repo_id, tag, commit.oid)
    return Published(
        repo_id, hub.url(repo_id), branch, commit.oid, sizes, removed, commit.oid != parent, commit
    )


def _note(folder: Path, author: Mapping[str, Any]) -> None:
    try:
        annotate(folder, **author)
    except ArtifactError as error:  # a read-only folder: what was published has the words
        logger.warning("the author's words are published, but not noted here: %s", error)


def _tag(hub: Hub, repo_id: str, tag: str, sha: str) -> None:
    """Name the new version; the commit stands whatever becomes of it, and the message says so."""
    try:
        with hub.stated("tag", repo_id):
            hub.api.create_tag(repo_id, tag=tag, revision=sha)
    except RegistryError as error:
        raise RegistryError(f"published at {sha}, but not tagged {tag}: {error}") from error


def license_of(hub: Hub, repo_id: str) -> str | None:
    """Return the licence a repository's card states, or None where that cannot be read."""
    try:
        card = hub.api.model_info(repo_id).card_data
    except Exception as error:  # a fact that is not known is left out
        logger.debug("the licence of %s is not known: %s", repo_id, error)
        return None
    found = card.get("license") if card else None
    return found if isinstance(found, str) else None


def _open(
    hub: Hub, repo_id: str, branch: str, *, private: bool | None, tag: str | None
) -> ModelInfo:
    """Return the branch's head; repository and branch are created where they are missing."""
    from huggingface_hub import errors

    api = hub.api
    try:
        repository = api.model_info(repo_id)
    except errors.RepositoryNotFoundError:
        api.create_repo(repo_id, private=private, exist_ok=True)
        repository = api.model_info(repo_id)
    if private and not repository.private:
        raise RegistryError(
            f"{repo_id} is public, and stays so: make it private in its settings, or push elsewhere"
        )
    refs = api.list_repo_refs(repo_id) if tag else None
    if refs and tag in {ref.name for ref in refs.tags}:
        raise RegistryError(f"{repo_id} has a tag {tag} already: choose another version")
    if refs and tag in {branch, *(ref.name for ref in refs.branches)}:
        raise RegistryError(f"{repo_id}: {tag} is a branch, and cannot be a tag as well")
    if branch == "main":
        return repository
    api.create_branch(repo_id, branch=branch, exist_ok=True)
    return api.model_info(repo_id, revision=branch)


def _commit(
    hub: Hub,
    repo_id: str,
    branch: str,
    head: ModelInfo,
    files: Mapping[str, Content],
    title: str,
) -> tuple[CommitInfo, tuple[str, ...], str | None]:
    """Commit on top of the head; where it moved meanwhile, read it again and try again."""
    deadline = time.monotonic() + _PATIENCE
    for attempt in range(1000):
        removed = _obsolete(hub, repo_id, head, files)
        try:
            commit = _sent(hub, repo_id, branch, head.sha, files, removed, title)
        except Exception as error:
            # 412: the branch moved; 409: it moves right now.
            if status_of(error) not in (409, 412) or time.monotonic() > deadline:
                raise
        else:
            return commit, removed, head.sha
        time.sleep(random.uniform(0.02, 0.05 * 2 ** min(attempt, 5)))
        head = hub.api.model_info(repo_id, revision=branch)
    raise AssertionError("the deadline ends the loop")


def _sent(
    hub: Hub,
    repo_id: str,
    branch: str,
    parent: str | None,
    files: Mapping[str, Content],
    removed: tuple[str, ...],
    title: str,
) -> CommitInfo:
    """Send one commit; without Xet where the server does not offer it."""
    from huggingface_hub import CommitOperationDelete
    from huggingface_hub.errors import OfflineModeIsEnabled

    deletions = [CommitOperationDelete(name) for name in removed]

    def create(additions: list[Any]) -> CommitInfo:
        return hub.api.create_commit(
            repo_id,
            [*additions, *deletions],
            commit_message=title,
            revision=branch,
            parent_commit=parent,
        )

    try:
        return create(_additions(files))
    except OfflineModeIsEnabled:
        raise
    except ConnectionError as error:
        # The client's Xet does not fall back by itself where a server has no Xet storage; open
        # files make it use LFS.
        logger.debug("no Xet at %s (%s): uploading by LFS", hub.api.endpoint, error)
        with ExitStack() as opened:
            return create(_additions(files, opened))


def _additions(files: Mapping[str, Content], opened: ExitStack | None = None) -> list[Any]:
    """Return new operations: the client marks those that it has sent."""
    from huggingface_hub import CommitOperationAdd

    return [
        CommitOperationAdd(
            name,
            opened.enter_context(content.open("rb"))
            if opened and isinstance(content, Path)
            else content,
        )
        for name, content in sorted(files.items())
    ]


def _obsolete(
    hub: Hub, repo_id: str, head: ModelInfo, files: Mapping[str, Content]
) -> tuple[str, ...]:
    """Return the files of the artifact at the head that the new one does not have."""
    there = {file.rfilename for file in head.siblings or ()} - {".gitattributes"}
    if MANIFEST not in there or not there - set(files):
        return ()
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(
        repo_id,
        MANIFEST,
        revision=head.sha,
        cache_dir=hub.cache_dir,
        endpoint=hub.endpoint,
        token=hub.token,
    )
    try:
        listed = set(read_manifest(Path(path).parent).files)
    except ArtifactError as error:
        logger.warning("%s: what is published there is no readable artifact: %s", repo_id, error)
        return ()
    return tuple(sorted(there & listed - set(files)))
