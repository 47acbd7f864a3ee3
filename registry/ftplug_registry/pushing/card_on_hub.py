"""The card that a push publishes, given the one that is on the Hub: an edited one is never lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.card import CARD, card_files, is_sealed
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.notices.lines import with_notices, without_notices
from ftplug.artifacts.notices.reading import notices_of, unreadable
from ftplug.context import logger
from ftplug.errors import ArtifactError, PluginError, RegistryError
from ftplug_registry.card.conflict import CannotMergeError
from ftplug_registry.card.merging import explains, merged_card
from ftplug_registry.contents import card_digest
from ftplug_registry.hub import Hub
from ftplug_registry.inspection import Content

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_INSTEAD = (
    "replace it with --overwrite-card (overwrite_card=True), or keep it by copying it into the "
    "folder as README.md"
)
_COMMITS = 50  # looked through for the card that was edited

# A Trainer's card that nobody has touched: it says so, and what it asks for is not filled in.
_TRAINERS = "This model card has been generated automatically according to the information"
_TO_FILL_IN = ("## Model description", "## Intended uses & limitations")
_NOT_FILLED_IN = "\n\nMore information needed\n"


@dataclass(frozen=True)
class Card:
    """A card to publish, and what to say of it where it is not simply the new one."""

    content: Content
    note: str | None = None


def card_for(
    hub: Hub, repo_id: str, head: ModelInfo, new: Content, *, overwrite: bool = False
) -> Card:
    """Return the card that goes on top of a commit.

    ``new`` is ftplug's own card as bytes, or the path of the author's. The Hub's card gives way
    where it is ftplug's and unedited, or the author's of an earlier push and the folder has a later
    one, or where ``overwrite`` says so. Edited otherwise it stays, with its generated parts
    renewed. What was said of the repository (deprecated, withdrawn) stays in any case. Raises
    :class:`RegistryError` where the two cannot be brought together.
    """
    there = _Repository(hub, repo_id, head)
    if (path := there.path(CARD)) is None:
        return Card(new)
    raw = path.read_bytes()
    if broken := unreadable(raw.decode("utf-8", "replace")):
        said = f"says {broken[0]} in its metadata in a way that cannot be read: mend it there"
        raise _refusal(repo_id, said)
    notices = notices_of(raw.decode("utf-8", "replace"))
    if not notices:
        return Card(new) if overwrite else _card_on(there, raw, new)
    plain = without_notices(raw.decode("utf-8", "surrogateescape"))
    card = Card(new)
    if not overwrite:
        card = _card_on(there, plain.encode("utf-8", "surrogateescape"), new)
    return _still_said(card, notices)


def _still_said(card: Card, notices: Mapping[str, Any]) -> Card:
    """Return a card with the notices of the one before it."""
    content = card.content.read_bytes() if isinstance(card.content, Path) else card.content
    text = with_notices(content.decode("utf-8", "surrogateescape"), notices)
    note = (
        "what was said of it stays on the card (deprecate --undo or withdraw --undo takes it back)"
    )
    said = f"{card.note}; {note}" if card.note else note
    return Card(text.encode("utf-8", "surrogateescape"), said)


def _card_on(there: _Repository, raw: bytes, new: Content) -> Card:
    """Return the card that takes the place of another one, of which ``raw`` are the bytes."""
    repo_id = there.repo_id
    mine = new.read_bytes() if isinstance(new, Path) else new
    if raw == mine:
        return Card(new)
    try:
        edited = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refusal(repo_id, f"is no UTF-8: {_INSTEAD}") from None
    if is_sealed(edited):
        return Card(new)
    if _is_untouched_trainers(edited):
        return Card(new, "the card that a Trainer had generated is replaced")
    if isinstance(new, Path):
        manifest = there.manifest()
        if manifest is not None and manifest.card == card_digest(raw):
            return Card(new)
        both = f"was edited, and {new} by hand as well: bring both together in that file, then"
        raise _refusal(repo_id, f"{both} push it with --overwrite-card (overwrite_card=True)")
    try:
        merged = merged_card(there.cards_before(edited), mine.decode("utf-8"), edited)
    except CannotMergeError as error:
        raise _refusal(repo_id, f"was edited, and {error}: {_INSTEAD}") from error
    note = "its card was edited by hand: what was written there stays, metadata and tables are"
    return Card(merged.encode("utf-8"), f"{note} renewed (--overwrite-card replaces it)")


def _refusal(repo_id: str, why: str) -> RegistryError:
    return RegistryError(f"{repo_id}: nothing was published: the card on the Hub {why}")


def _is_untouched_trainers(text: str) -> bool:
    text = text.replace("\r\n", "\n")
    open_ones = [f"{title}{_NOT_FILLED_IN}" in text for title in _TO_FILL_IN]
    return "generated_from_trainer" in text and _TRAINERS in text and all(open_ones)


@dataclass(frozen=True)
class _Repository:
    """A repository at one commit."""

    hub: Hub
    repo_id: str
    head: ModelInfo

    def path(self, name: str, revision: str | None = None) -> Path | None:
        """Return where a file lies in the cache, or None where there is no such file."""
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        names = {file.rfilename for file in self.head.siblings or ()}
        if revision is None and name not in names:
            return None
        try:
            found = self.hub.api.hf_hub_download(
                self.repo_id,
                name,
                revision=revision or self.head.sha,
                cache_dir=self.hub.cache_dir,
            )
        except LocalEntryNotFoundError:  # not reached: that says nothing of the commit
            raise
        except EntryNotFoundError:
            return None
        return Path(found)

    def manifest(self) -> Manifest | None:
        """Return the manifest that is published there, if it can be read."""
        if (path := self.path(MANIFEST)) is None:
            return None
        try:
            return read_manifest(path.parent, plugins=False)
        except ArtifactError as error:
            logger.debug("%s: no readable manifest: %s", self.repo_id, error)
            return None

    def cards_before(self, edited: str) -> Iterator[str]:
        """Yield what the card may have been before it was edited.

        Its own artifact's card is written once more; where another version of ftplug had written
        it otherwise, the last unedited one in the history counts.
        """
        explained = False
        if (manifest := self.manifest()) is not None:
            # An author who edited the folder's card started from one that names no repository.
            for place in (self.repo_id, None):
                try:
                    text = card_files(manifest, repo_id=place)[CARD].decode("utf-8")
                except PluginError as error:
                    logger.debug("%s: its card fails now: %s", self.repo_id, error)
                    break
                explained = explained or explains(text, edited)
                yield text
        if not explained:
            yield from islice(self._sealed(), 1)

    def _sealed(self) -> Iterator[str]:
        """Yield the unedited cards of earlier commits, the latest first."""
        commits = self.hub.api.list_repo_commits(self.repo_id, revision=self.head.sha)
        for commit in commits[1 : _COMMITS + 1]:
            path = self.path(CARD, commit.commit_id)
            text = without_notices(path.read_text("utf-8", "replace")) if path else ""
            if is_sealed(text):
                yield text
