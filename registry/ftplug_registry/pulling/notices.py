"""What the publisher says of a version that is pulled: by main's card, which is the latest word."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ftplug.artifacts.manifest import MANIFEST
from ftplug.artifacts.notices.lines import KEYS
from ftplug.artifacts.notices.reading import (
    Notice,
    notice_beside,
    notice_in,
    plain_words,
    withdrawals,
)
from ftplug.context import logger
from ftplug.errors import FtplugError, RegistryError
from ftplug_registry.hub import Hub
from ftplug_registry.pulling.source import Source

MAIN = "main"


def notice_of(source: Source, revision: str | None, folder: Path, *, cached: bool) -> Notice | None:
    """Return what is said of a version that lies in ``folder``.

    Of another revision than main, main's card is asked for, where there is a network; of a commit
    that the cache holds whole nothing is asked, and the card beside it counts.
    """
    beside = notice_beside(folder, source.sha)
    pinned = re.fullmatch(r"[0-9a-f]{40}", revision or "")
    if revision in (None, "", MAIN) or (pinned and cached):
        return beside
    metadata = _metadata_on_main(source.hub, source.repo_id)
    if metadata is None:
        return beside
    return notice_in(metadata, manifest=_digest(folder / MANIFEST), commit=source.sha)


def metadata_of(card_data: Any) -> dict[str, Any]:
    """Return the two keys of a card's metadata, as the Hub read them."""
    return {key: card_data.get(key) for key in KEYS} if card_data else {}


@contextmanager
def withdrawn_tags_named(hub: Hub, repo_id: str, revision: str | None) -> Iterator[None]:
    """Let a revision that does not exist any more say that it was withdrawn, and why."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        yield
    except RevisionNotFoundError:
        if entry := withdrawn_tag(_metadata_on_main(hub, repo_id) or {}, revision):
            use = f"; use {plain_words(entry['use'])} instead" if entry.get("use") else ""
            why = plain_words(entry.get("why"))
            raise RegistryError(
                f"{repo_id}: {revision} was withdrawn by its publisher: {why}{use}"
            ) from None
        raise


def withdrawn_tag(metadata: Mapping[str, Any], tag: str | None) -> dict[str, Any] | None:
    """Return the entry of a version that was withdrawn by its tag."""
    named = [entry for entry in withdrawals(metadata) if tag and entry.get("tag") == tag]
    return named[-1] if named else None


def _metadata_on_main(hub: Hub, repo_id: str) -> dict[str, Any] | None:
    """Return the notices on main's card; None where the Hub cannot be asked."""
    try:
        return metadata_of(hub.api.model_info(repo_id).card_data)
    except FtplugError:  # an answer that no Hub gives
        raise
    except Exception as error:
        logger.debug("%s: the card on main cannot be read: %s", repo_id, error)
        return None


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
