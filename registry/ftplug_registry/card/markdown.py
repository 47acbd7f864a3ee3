"""Strings of any origin as markdown: nothing in them is markup, and they stay in their cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from typing_extensions import TypeIs

_MARKUP = re.compile(r"[&<>`*|\[\]~$\\]|(?<!\w)_|_(?!\w)")


def line(value: object) -> str:
    """Return a value's text on one line, without control characters."""
    text = " ".join(str(value).split())
    return "".join(character for character in text if character.isprintable())


def plain(value: object) -> str:
    """Return text that reads as it is written, also in a table cell."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", line(value))


def code(value: object) -> str:
    """Return a code span, also in a table cell."""
    text = line(value)
    if not text:
        return ""
    # A cell's end cannot be escaped reliably in a code span, nor a backtick.
    return f"<code>{plain(text)}</code>" if re.search(r"[`|\\]", text) else f"`{text}`"


def link(label: str, url: str) -> str:
    """Return a link; ``label`` is markdown already."""
    address = re.sub(r"[\s<>|()]", lambda match: f"%{ord(match[0]):02X}", line(url))
    return f"[{label}]({address})"


def fenced(text: str, language: str) -> str:
    """Return a code block that nothing in the text can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; its cells are markdown already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def is_number(value: object) -> TypeIs[int | float]:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(value: object) -> str:
    """Return a number with four significant digits, anything else as plain text."""
    if not is_number(value):
        return plain(value)
    if isinstance(value, int):  # of any length: as a float it could be too large
        return f"{value:,}"
    if abs(value) >= 1000 and value.is_integer():
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
