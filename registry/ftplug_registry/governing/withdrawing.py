"""Withdrawing one version: its tag goes, the card says why, and nothing is deleted unasked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.artifacts.manifest import MANIFEST, read_manifest
from ftplug.artifacts.notices.lines import WITHDRAWN
from ftplug.artifacts.notices.reading import withdrawals
from ftplug.artifacts.signatures import SIGNATURES
from ftplug.context import logger
from ftplug.errors import RegistryError
from ftplug_registry.bom.document import BOM
from ftplug_registry.governing.repository import (
    MAIN,
    Governed,
    Notices,
    checked_use,
    checked_why,
    entry_of,
)
from ftplug_registry.hub import Hub, check_repo_id, status_of

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationDelete, ModelInfo


@dataclass(frozen=True)
class Withdrawal:
    """What was done: ``tag`` was removed, and ``deleted`` are the files that left main.

    ``still_tagged`` are other tags of that version, by which it is pulled as before: of the commit,
    or of another that has the same manifest, as one that changed the card alone.
    """

    repo_id: str
    commit: str
    tag: str | None
    why: str
    use: str | None
    still_tagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    said: str | None = None


def withdraw(
    repo_id: str,
    revision: str,
    why: str,
    *,
    use: str | None = None,
    delete: bool = False,
    hub: Hub | None = None,
) -> Withdrawal:
    """Withdraw the version that a tag, a branch or a commit stands for.

    First main's card says so, in its metadata (``ftplug_withdrawn``: tag, commit, sha256 of the
    manifest, why), in one commit that touches nothing signed; then the tag is removed. Whoever
    pulls that version by another name, or asks for the tag, is told why. ``delete`` also takes the
    artifact's files out of main, if main holds this very version; the history keeps them. Run again
    it finishes what was interrupted. Raises :class:`RegistryError`.
    """
    hub = hub or Hub()
    check_repo_id(repo_id)
    why = checked_why(why, "withdraw")
    use = checked_use(hub, use, repo_id, "withdraw")
    repository = Governed(hub, repo_id)
    with hub.stated_errors(f"withdraw {revision} of", repo_id):
        commit, digest = _version(repository, revision)
        repository.require_artifact(revision, commit)
        tags = repository.tag_commits(repository.commits())
        name = revision.removeprefix("refs/tags/")
        tag = name if name in tags else None
        entry = dict(entry_of(why, use, tag=tag, commit=commit, manifest=digest))
        deleted = _files_on_main(repository, digest) if delete else ()

        def change(notices: Notices) -> Notices:
            kept = [one for one in withdrawals(notices) if not _is_of(one, tag, commit)]
            return {**notices, WITHDRAWN: [*kept, entry]}

        def deletions(head: ModelInfo) -> Sequence[CommitOperationDelete]:
            return _deletions(repository, head, deleted, digest)

        title = f"Withdraw {tag or commit[:12]}"
        said = repository.say(change, title, why, also=deletions)
        if tag:
            _remove(hub, repo_id, tag)
        others = tuple(_still(repository, tags, tag, commit, digest))
    return Withdrawal(repo_id, commit, tag, why, use, others, deleted, said)


def _still(
    repository: Governed, tags: Mapping[str, str], gone: str | None, commit: str, digest: str | None
) -> Iterator[str]:
    """Yield the other tags of a version; of each commit the manifest is fetched, once."""
    digests = {commit: digest}
    for name, at in sorted(tags.items()):
        if name == gone:
            continue
        if at not in digests:
            digests[at] = repository.manifest_digest(at)
        if at == commit or (digest is not None and digests[at] == digest):
            yield name


def unwithdraw(repo_id: str, revision: str, *, hub: Hub | None = None) -> Withdrawal:
    """Take a withdrawal back: the card does not say it any more, and the tag is there again.

    Files that were deleted stay deleted: push them again.
    """
    hub = hub or Hub()
    check_repo_id(repo_id)
    repository = Governed(hub, repo_id)
    with hub.stated_errors(f"withdraw --undo {revision} of", repo_id):
        notices = repository.notices()
        entry = _entry(notices, revision) or _entry_now(repository, notices, revision)
        if entry is None:
            raise RegistryError(f"{repo_id}: {revision} was not withdrawn")
        commit, tag = str(entry.get("commit")), entry.get("tag")
        if tag and tag not in repository.tags():
            tag = _tag_again(hub, repo_id, tag, commit)

        def change(notices: Notices) -> Notices:
            return {**notices, WITHDRAWN: [one for one in withdrawals(notices) if one != entry]}

        said = repository.say(change, f"Take the withdrawal of {tag or commit[:12]} back")
    return Withdrawal(repo_id, commit, tag, "", None, said=said)


def _version(repository: Governed, revision: str) -> tuple[str, str | None]:
    """Return commit and digest of a version's manifest."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        commit = repository.commit_of(revision)
    except RevisionNotFoundError:
        if _entry(repository.notices(), revision):
            raise RegistryError(
                f"{repository.repo_id}: {revision} was withdrawn before; to say something else "
                "of it, withdraw its commit"
            ) from None
        raise
    return commit, repository.manifest_digest(commit)


def _entry(notices: Notices, revision: str) -> dict[str, str] | None:
    """Return what is said of a version, by its tag or its commit."""
    found = [
        one
        for one in withdrawals(notices)
        if one.get("tag") == revision
        or (len(revision) >= 7 and str(one.get("commit", "")).startswith(revision))
    ]
    return found[-1] if found else None


def _entry_now(repository: Governed, notices: Notices, revision: str) -> dict[str, str] | None:
    """Return what is said of the version that a branch or another tag stands for now."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        commit = repository.commit_of(revision)
    except RevisionNotFoundError:
        return None
    digest = repository.manifest_digest(commit)
    found = [
        one
        for one in withdrawals(notices)
        if one.get("commit") == commit or (digest and one.get("manifest") == digest)
    ]
    return found[-1] if found else None


def _is_of(entry: dict[str, str], tag: str | None, commit: str) -> bool:
    return entry.get("commit") == commit and entry.get("tag") in (tag, None)


def _files_on_main(repository: Governed, digest: str | None) -> tuple[str, ...]:
    """Return the artifact's files on main; refuse where main holds another version."""
    head = repository.head()
    if digest is None or repository.manifest_digest(str(head.sha)) != digest:
        raise RegistryError(
            f"{repository.repo_id}: {MAIN} holds another version, so --delete has nothing to "
            "delete: leave it out (only deleting the whole repository takes old commits away)"
        )
    path = repository.file(MANIFEST, str(head.sha))
    assert path is not None
    listed = {MANIFEST, BOM, *SIGNATURES, *read_manifest(path.parent, plugins=False).files}
    there = {file.rfilename for file in head.siblings or ()}
    return tuple(sorted(listed & there))


def _deletions(
    repository: Governed, head: ModelInfo, files: tuple[str, ...], digest: str | None
) -> list[CommitOperationDelete]:
    """Return the deletions for a commit on a head, which must still hold that version."""
    from huggingface_hub import CommitOperationDelete

    if files and repository.manifest_digest(str(head.sha)) != digest:
        raise RegistryError(
            f"{repository.repo_id}: somebody pushed another version meanwhile: nothing was done"
        )
    return [CommitOperationDelete(name) for name in files]


def _tag_again(hub: Hub, repo_id: str, tag: str, commit: str) -> str | None:
    """Set a tag again; return None where its commit is gone, as after a squash of the history."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        hub.api.create_tag(repo_id, tag=tag, revision=commit)
    except RevisionNotFoundError:
        logger.warning("%s: the commit of %s is gone: the tag is not set again", repo_id, tag)
        return None
    return tag


def _remove(hub: Hub, repo_id: str, tag: str) -> None:
    try:
        hub.api.delete_tag(repo_id, tag=tag)
    except Exception as error:  # another writer was faster
        if status_of(error) != 404:
            raise
