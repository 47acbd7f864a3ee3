"""Publishing an artifact: one atomic commit on top of what is there, complete or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.card import CARD
from ftplug.artifacts.digests import sha256
from ftplug.artifacts.manifest import Manifest, read_manifest
from ftplug.artifacts.saving import annotate
from ftplug.artifacts.signatures import SIGNATURE, UNSIGNED
from ftplug.base.license import named_license
from ftplug.context import logger
from ftplug.errors import ArtifactError, RegistryError
from ftplug_registry.contents import contents, size_of
from ftplug_registry.credentials import credential_in
from ftplug_registry.hub import Hub, check_ref, check_repo_id
from ftplug_registry.inspection import Content
from ftplug_registry.pushing.branch import Branch, Committed
from ftplug_registry.pushing.card_on_hub import Card, card_for
from ftplug_registry.signing.checking import Demand, check_artifact
from ftplug_registry.signing.making import Signer

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, ModelInfo


@dataclass(frozen=True)
class Published:
    """What a push did: ``changed`` is False where the branch held all of it already.

    ``card`` says what became of a card that was there and is neither ftplug's nor the folder's.
    """

    repo_id: str
    url: str
    branch: str
    sha: str
    files: Mapping[str, int]
    removed: tuple[str, ...]
    changed: bool
    card: str | None = field(repr=False)
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
    overwrite_card: bool = False,
    sign: Signer | None = None,
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

    A card that somebody edited on the Hub keeps its prose, and its metadata and generated tables
    are renewed, which is logged; where that cannot be done the push is refused.
    ``overwrite_card=True`` replaces it. What was said of the repository (deprecated, withdrawn)
    stays in any case.

    ``sign`` is the key that signs what is published, as it is published; the folder stays unsigned.
    A folder that is signed is published as it was signed, once the signature fits.

    Raises :class:`RegistryError` or :class:`ArtifactError`; the branch is then as it was.
    """
    hub, folder = hub or Hub(token=token), Path(directory)
    branch = Branch(hub, repo_id, "main" if revision is None else revision)
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
        files = _signed(files, folder, repo_id, manifest, sign)
        sizes = {name: size_of(content) for name, content in sorted(files.items())}
        if announce:
            announce(sizes, hub.url(repo_id))
        head = branch.open(private=private, tag=tag)
        done, note = _committed(branch, head, files, title, overwrite_card=overwrite_card)
        if author:  # kept beside the artifact too, or the next push would take it back
            _note(folder, author)
        if tag:
            branch.tag(tag, done.info.oid)
    return Published(
        repo_id=repo_id,
        url=hub.url(repo_id),
        branch=branch.name,
        sha=done.info.oid,
        files={name: size_of(content) for name, content in sorted(done.files.items())},
        removed=done.removed,
        changed=done.changed,
        card=note,
        commit=done.info,
    )


def _signed(
    files: dict[str, Content], folder: Path, repo_id: str, manifest: Manifest, sign: Signer | None
) -> dict[str, Content]:
    """Return what is published with its signature: a new one, or the folder's own if it fits."""
    if SIGNATURE in files:
        if sign is not None:
            raise RegistryError(f"{folder}: signed already: push it as it is, without --sign")
        check_artifact(folder, files, manifest, demand=Demand())
    if sign is None:
        return files
    covered = {name: content for name, content in files.items() if name not in UNSIGNED}
    digests = {
        name: sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
        for name, content in covered.items()
    }
    return files | sign.signatures(digests, repo_id.partition("/")[2], manifest)


def _committed(
    branch: Branch, head: ModelInfo, files: dict[str, Content], title: str, *, overwrite_card: bool
) -> tuple[Committed, str | None]:
    """Commit, with the card that goes on top of each parent; returns what is to say of it."""
    card = Card(files[CARD])

    def files_on(parent: ModelInfo) -> dict[str, Content]:
        nonlocal card
        card = card_for(branch.hub, branch.repo_id, parent, files[CARD], overwrite=overwrite_card)
        return files | {CARD: card.content}

    done = branch.commit(head, files_on, title)
    if card.note:
        logger.warning("%s: %s", branch.repo_id, card.note)
    if SIGNATURE in done.removed:
        logger.warning(
            "%s was signed, and no longer is: whoever knows its key refuses this version (--sign)",
            branch.repo_id,
        )
    return done, card.note


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
