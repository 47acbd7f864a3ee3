"""What a publisher says of an artifact afterwards: deprecated, or this version withdrawn, and why.

Both stand in the card's metadata, a key each, and are signed by nobody: the manifest, the weights
and their signature stay as they are. So they are shown, shortened and without what would drive a
terminal, and nothing is ever refused because of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from ftplug.artifacts.card import CARD
from ftplug.artifacts.manifest import MANIFEST
from ftplug.artifacts.notices.lines import DEPRECATED, KEYS, WITHDRAWN, lines_of
from ftplug.context import logger
from ftplug.errors import one_line

LONGEST = 300  # characters of a reason
_LARGEST_CARD = 2**20  # bytes
_LARGEST_ENTRY = 2**16  # characters of one key's lines

# What drives a terminal: control sequences, strings of the operating system, two-byte escapes.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|\Z)"
    r"|\x1b[ -/]*[0-~]",
    re.DOTALL,
)
_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


@dataclass(frozen=True)
class Notice:
    """``kind`` is deprecated or withdrawn; ``use`` is the repository to use instead, if named."""

    kind: str
    why: str
    use: str | None = None

    def said(self) -> str:
        """Return one line about it."""
        instead = f" (use {self.use} instead)" if self.use else ""
        return f"{self.kind} by its publisher: {self.why}{instead}"


def plain_words(value: object) -> str:
    """Return a stranger's text as one printable line of at most 300 characters; "" if it is none.

    Escape sequences, control characters, line breaks and marks of direction are taken out.
    """
    text = _text(value)[:_LARGEST_ENTRY]
    text = one_line(_ESCAPES.sub("", text))
    text = one_line("".join(c if c.isprintable() else " " for c in text))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def notice_in(
    metadata: Mapping[str, Any], *, manifest: str | None = None, commit: str | None = None
) -> Notice | None:
    """Return what a card's metadata say of a version: its withdrawal first.

    ``manifest`` is the sha256 of the version's manifest, ``commit`` its sha: either identifies it.
    """
    for entry in withdrawals(metadata):
        known = (entry.get("manifest"), manifest), (entry.get("commit"), commit)
        if any(said and said == own for said, own in known):
            return _notice("withdrawn", entry)
    said = metadata.get(DEPRECATED)
    if not said:
        return None
    return _notice("deprecated", said if isinstance(said, Mapping) else {"why": said})


def withdrawals(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of withdrawn versions, also one by hand that is no list."""
    entries = metadata.get(WITHDRAWN)
    entries = [entries] if isinstance(entries, dict) else entries
    return [one for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []


def notices_of(card: str) -> dict[str, Any]:
    """Return the two keys of a card's metadata, as far as they are there and can be read."""
    return dict(_read(card))


def unreadable(card: str) -> list[str]:
    """Return those of the two keys that are there and cannot be read: no YAML, or too long."""
    said = notices_of(card)
    return [key for key in KEYS if key not in said and lines_of(card, key)]


def notice_beside(directory: Path, commit: str | None = None) -> Notice | None:
    """Return what the card in an artifact's folder says of it; None where it cannot be read."""
    try:
        with (directory / CARD).open("rb") as file:
            card = file.read(_LARGEST_CARD).decode("utf-8", "replace")
        manifest = hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        return None
    return notice_in(notices_of(card), manifest=manifest, commit=commit)


def tell(name: object, notice: Notice | None) -> None:
    """Warn of a notice, if there is one."""
    if notice is not None:
        logger.warning("%s: %s", name, notice.said())


def _notice(kind: str, entry: Mapping[str, Any]) -> Notice:
    use = entry.get("use")
    instead = use if isinstance(use, str) and _REPO_ID.fullmatch(use) else None
    return Notice(kind, plain_words(entry.get("why")) or "no reason is given", instead)


def _text(value: object) -> str:
    """Return a reason as text; one by hand may read as a number or a date."""
    if isinstance(value, int):
        value = str(value) if not isinstance(value, bool) and value.bit_length() < 64 else ""
    return str(value) if isinstance(value, str | float | date) else ""


def _read(card: str) -> Iterator[tuple[str, Any]]:
    """Yield key and value; only their own lines are given to the YAML reader, and not too many."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the other takes seconds of brackets
    for key in KEYS:
        text = lines_of(card, key)
        try:
            value = yaml.load(text, loader) if 0 < len(text) <= _LARGEST_ENTRY else None
        except (yaml.YAMLError, ValueError, RecursionError, ArithmeticError, LookupError) as error:
            logger.debug("%s of a card is no YAML: %s", key, error)
            continue
        if isinstance(value, dict) and key in value:
            yield key, value[key]
