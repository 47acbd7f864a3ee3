"""Publishing an artifact: one atomic commit on top of what is there, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.saving import annotate
from ftplug.base.license import named_license
from ftplug.context import logger
from ftplug.errors import ArtifactError, RegistryError
from ftplug_registry.contents import contents, size_of
from ftplug_registry.credentials import credential_in
from ftplug_registry.hub import Hub, check_ref, check_repo_id
from ftplug_registry.pushing.branch import Branch

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


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
    hub, folder = hub or Hub(token=token), Path(directory)
    branch = Branch(hub, repo_id, revision or "main")
    check_repo_id(repo_id)
    check_ref("branch", branch.name)
    check_ref("tag", tag)
    manifest = read_manifest(folder)
    title = str(message or f"Publish {manifest.method_names}")
    if credential := credential_in(title):
        raise RegistryError(f"the commit message holds {credential}: history would keep it")
    with hub.stated_errors("push to", repo_id):
        base_license = None
        if manifest.base["id"] and not manifest.base.get("license"):
            base_license = license_of(hub, manifest.base["id"])
        files = contents(folder, repo_id, author, base_license=base_license, strays=strays)
        sizes = {name: size_of(content) for name, content in sorted(files.items())}
        if announce:
            announce(sizes, hub.url(repo_id))
        done = branch.commit(branch.open(private=private, tag=tag), files, title)
        if author:  # kept beside the artifact too, or the next push would take it back
            _note(folder, author)
        if tag:
            branch.tag(tag, done.info.oid)
    return Published(
        repo_id=repo_id,
        url=hub.url(repo_id),
        branch=branch.name,
        sha=done.info.oid,
        files=sizes,
        removed=done.removed,
        changed=done.changed,
        commit=done.info,
    )


def _note(folder: Path, author: Mapping[str, Any]) -> None:
    try:
        annotate(folder, **author)
    except ArtifactError as error:  # a read-only folder: what was published has the words
        logger.warning("the author's words are published, but not noted here: %s", error)


def license_of(hub: Hub, repo_id: str) -> str | None:
    """Return the licence a repository's card states, or None where that cannot be read."""
    try:
        card = hub.api.model_info(repo_id).card_data
    except Exception as error:  # a fact that is not known is left out
        logger.debug("the licence of %s is not known: %s", repo_id, error)
        return None
    return named_license(card.get("license") if card else None)
