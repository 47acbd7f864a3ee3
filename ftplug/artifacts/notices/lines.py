"""The lines of a card's metadata that hold a notice: found, taken out, put in, all else untouched.

``without_notices(with_notices(card, …)) == card`` to the byte, whoever wrote the card (but for an
empty block of metadata): the seal of one that nobody has edited holds all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DEPRECATED, WITHDRAWN = KEYS = "ftplug_deprecated", "ftplug_withdrawn"

_FRONT = re.compile(
    r"\A(\ufeff?(?:\s*\n)?---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE
)
_MARK = "\ufeff"  # of byte order, which some editors put first


def lines_of(card: str, key: str) -> str:
    """Return the lines of a key at the top level of a card's metadata; "" where it is not there."""
    front = _FRONT.match(card)
    return "".join(_split(front[2], (key,))[0]) if front else ""


def without_notices(card: str) -> str:
    """Return a card as it was before anything was said of it."""
    front = _FRONT.match(card)
    if front is None:
        return card
    notices, others = _split(front[2], KEYS)
    if not notices:
        return card
    if not others:  # the block was made for them
        return (_MARK if card.startswith(_MARK) else "") + card[front.end() :]
    return front[1] + "".join(others) + front[3] + card[front.end() :]


def with_notices(card: str, notices: Mapping[str, Any]) -> str:
    """Return a card that says these and no other notices, each in one line of its metadata."""
    plain = without_notices(card)
    kept = {key: notices[key] for key in KEYS if notices.get(key)}
    if not kept:
        return plain
    end = "\r\n" if "\r\n" in plain else "\n"
    lines = "".join(_line(key, value) + end for key, value in kept.items())
    front = _FRONT.match(plain)
    if front is None:
        mark = _MARK if plain.startswith(_MARK) else ""
        return f"{mark}---{end}{lines}---{end}{plain.removeprefix(mark)}"
    return plain[: front.end(2)] + lines + plain[front.end(2) :]


def _split(front: str, keys: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the lines of these keys, with the indented ones that follow, and the other lines."""
    of_keys: list[str] = []
    others: list[str] = []
    begins = re.compile(rf"""["']?(?:{"|".join(keys)})["']?[ \t]*:(?:\s|$)""")
    inside = False
    for line in front.splitlines(keepends=True):
        goes_on = line[0] in " \t" or line.startswith("- ") or not line.strip()
        inside = bool(begins.match(line)) or (inside and goes_on)
        (of_keys if inside else others).append(line)
    return of_keys, others


def _line(key: str, value: Any) -> str:
    """Return a key with its value, in YAML's flow style, on a line of its own."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return f"{key}: {text.strip()}"
