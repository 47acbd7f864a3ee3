"""The licence of a base model, as its own card states it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftplug.context import logger


def cached_license(repo_id: str | None, revision: str | None, path: str | None) -> str | None:
    """Return the Hub's identifier of a base's licence (``apache-2.0``), or None; no network.

    Read from the ``README.md`` in the folder the base was loaded from, or in the Hub's cache for
    this revision.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if path and (card := Path(path, constants.REPOCARD_NAME)).is_file():
        return card_license(card)
    if repo_id:
        cached = try_to_load_from_cache(repo_id, constants.REPOCARD_NAME, revision=revision)
        return card_license(Path(cached)) if isinstance(cached, str) else None
    return None


def card_license(card: Path) -> str | None:
    """Return the licence that a model card's metadata names, if there is one and only one."""
    from huggingface_hub import ModelCard

    try:
        return named_license(ModelCard.load(card, ignore_metadata_errors=True).data.license)
    except Exception as error:  # a stranger's YAML may be anything
        logger.debug("%s: not readable as a model card: %r", card, error)
        return None


def named_license(field: Any) -> str | None:
    """Return the licence that a card's metadata name, if it is one and only one."""
    names = [field] if isinstance(field, str) else field
    one = isinstance(names, list) and len(names) == 1 and isinstance(names[0], str)
    return names[0].strip().lower() or None if one else None
