"""A published repository as it is governed: its commits, tags, and changes to its card alone."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.card import CARD
from ftplug.artifacts.digests import sha256
from ftplug.artifacts.manifest import MANIFEST
from ftplug.artifacts.notices.lines import with_notices
from ftplug.artifacts.notices.reading import LONGEST, notices_of, plain_words, unreadable
from ftplug.errors import RegistryError
from ftplug_registry.credentials import credential_in
from ftplug_registry.hub import Hub, check_repo_id, check_revision, status_of
from ftplug_registry.pulling.plain_peft import PLAIN

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelInfo
    from huggingface_hub.hf_api import GitCommitInfo

    Operation = CommitOperationAdd | CommitOperationDelete

MAIN = "main"
_FULL = (
    "nothing was changed: so many versions are withdrawn that no more words fit on the card: take "
    "those of old versions back with ftplug withdraw --undo"
)
PATIENCE = 60.0  # seconds of trying while others commit to the same branch

Notices = dict[str, Any]


@dataclass(frozen=True)
class Governed:
    """A repository on the Hub; its methods are called within ``hub.stated_errors``."""

    hub: Hub
    repo_id: str

    def head(self, revision: str | None = None) -> ModelInfo:
        """Return what the Hub knows of a revision, main by default."""
        check_revision(self.repo_id, revision)
        return self.hub.api.model_info(self.repo_id, revision=revision)

    def commit_of(self, revision: str) -> str:
        """Return the commit that a branch, a tag (annotated or not) or a sha stands for."""
        return str(self.head(revision).sha)

    def tags(self) -> dict[str, str]:
        """Return what each tag points to: a commit, or with a message git's object of the tag."""
        refs = self.hub.api.list_repo_refs(self.repo_id)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def commits(self, revision: str | None = None) -> list[GitCommitInfo]:
        """Return the history of a revision, newest first."""
        check_revision(self.repo_id, revision)
        return self.hub.api.list_repo_commits(self.repo_id, revision=revision)

    def tag_commits(self, commits: Iterable[GitCommitInfo]) -> dict[str, str]:
        """Return the commit of each tag; only what is none of ``commits`` is asked for."""
        known = {commit.commit_id for commit in commits}
        return {
            name: target if target in known else self.commit_of(name)
            for name, target in self.tags().items()
        }

    def branches(self) -> dict[str, str]:
        """Return the head of each branch."""
        refs = self.hub.api.list_repo_refs(self.repo_id)
        return {ref.name: ref.target_commit for ref in refs.branches}

    def file(self, name: str, commit: str) -> Path | None:
        """Return where a file of a commit lies in the cache, or None where there is none."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            path = self.hub.api.hf_hub_download(
                self.repo_id, name, revision=commit, cache_dir=self.hub.cache_dir
            )
        except LocalEntryNotFoundError:  # not reached: that says nothing of the commit
            raise
        except EntryNotFoundError:
            return None
        return Path(path)

    def require_artifact(self, revision: str, commit: str) -> None:
        """Refuse a commit that nobody can pull: it has neither a manifest nor a PEFT config."""
        if self.file(MANIFEST, commit) is None and self.file(PLAIN, commit) is None:
            raise RegistryError(
                f"{self.repo_id}: {revision} holds no artifact (no {MANIFEST}): name a revision "
                f"that does, see ftplug history {self.repo_id}"
            )

    def manifest_digest(self, commit: str) -> str | None:
        """Return the sha256 of a commit's manifest, or None where it has none."""
        path = self.file(MANIFEST, commit)
        return sha256(path) if path else None

    def notices(self) -> Notices:
        """Return what main's card says now."""
        return notices_of(self._card(str(self.head().sha)))

    def say(
        self,
        change: Callable[[Notices], Notices],
        title: str,
        why: str = "",
        *,
        also: Callable[[ModelInfo], Sequence[Operation]] = lambda head: (),
    ) -> str | None:
        """Commit main's card with other notices; return the commit, None where it says so already.

        The commit states its parent: where somebody else committed meanwhile the card is read
        again, so neither writer's words are lost. ``also`` are changes for the same commit. Raises
        :class:`RegistryError` where something would be lost: words there that cannot be read.
        """
        deadline, longest = time.monotonic() + PATIENCE, 0.05
        while True:
            head = self.head()
            card = self._card(str(head.sha))
            text = with_notices(card, change(notices_of(card)))
            self._check(card, text)
            operations = [*_card_operation(card, text), *also(head)]
            if not operations:
                return None
            try:
                return self._commit(operations, str(head.sha), title, why)
            except Exception as error:
                # 412: the branch moved; 409: it moves right now.
                if status_of(error) not in (409, 412) or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.02, longest))
            longest = min(2 * longest, 1.6)

    def _commit(self, operations: list[Operation], parent: str, title: str, why: str) -> str:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warnings while validating metadata", UserWarning)
            done = self.hub.api.create_commit(
                self.repo_id,
                operations,
                commit_message=title,
                commit_description=why,
                revision=MAIN,
                parent_commit=parent,
            )
        return str(done.oid)

    def _check(self, card: str, text: str) -> None:
        """Refuse a card that somebody has to mend before it can become ``text``."""
        reason = ""
        if broken := unreadable(card):
            reason = f"has {broken[0]} in its metadata, which cannot be read: mend it there"
        elif text != card and any("\udc80" <= character <= "\udcff" for character in card):
            reason = "is no UTF-8, which the Hub's client needs: save it as UTF-8 there"
        if reason:
            raise RegistryError(f"{self.repo_id}: nothing was changed: {CARD} on main {reason}")
        if unreadable(text):
            raise RegistryError(f"{self.repo_id}: {_FULL}")

    def _card(self, commit: str) -> str:
        path = self.file(CARD, commit)
        return path.read_bytes().decode("utf-8", "surrogateescape") if path else ""


def _card_operation(before: str, after: str) -> list[Operation]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    if after == before:
        return []
    if not after:  # it was made for a notice
        return [CommitOperationDelete(CARD)]
    return [CommitOperationAdd(CARD, after.encode("utf-8", "surrogateescape"))]


def checked_why(why: str, command: str) -> str:
    """Return a reason as readers will see it; refuse none, one too long, and one with a secret."""
    words = plain_words(why)
    if not words:
        raise RegistryError(f"{command}: say --why, in words that a reader can act on")
    if len(" ".join(why.split())) > LONGEST:
        raise RegistryError(f"{command}: --why has more than {LONGEST} characters: shorten it")
    if credential := credential_in(why):
        raise RegistryError(f"{command}: --why holds {credential}: history would keep it")
    return words


def checked_use(hub: Hub, use: str | None, repo_id: str, command: str) -> str | None:
    """Return the repository to use instead: another one, which readers of this one may see."""
    if use is None:
        return None
    check_repo_id(use)
    if use == repo_id:
        raise RegistryError(f"{command}: --use {use} is the repository itself: name another one")
    with hub.stated_errors(f"{command}: --use", use):
        hidden = hub.api.model_info(use).private
    with hub.stated_errors(command, repo_id):
        hidden = hidden and not hub.api.model_info(repo_id).private
    if hidden:
        raise RegistryError(
            f"{command}: --use {use} is private, and {repo_id} is not: its readers could not see "
            "it, and would read its name: make it public first"
        )
    return use


def entry_of(why: str, use: str | None, **more: str | None) -> Mapping[str, str]:
    """Return what the card's metadata say; what is not known is left out."""
    values = {**more, "why": why, "use": use}
    return {key: value for key, value in values.items() if value is not None}
