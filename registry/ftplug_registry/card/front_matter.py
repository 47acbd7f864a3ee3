"""The metadata at the top of a card: taken apart, merged key by key, written back.

What an author wrote keeps its spelling: only keys whose value changes are written anew.
"""

from __future__ import annotations

import re
from typing import Any

from ftplug.errors import one_line
from ftplug_registry.card.conflict import CannotMergeError

_FRONT = re.compile(r"\s*^---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_KEY = re.compile(r"""(?:"([^"]+)"|'([^']+)'|([^\s#'"\[{:-][^:#]*?))\s*:(?:\s|$)""")


def split(text: str) -> tuple[str, str]:
    """Return the YAML of a card and its body; without metadata the first is empty."""
    found = _FRONT.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def parsed(front: str) -> dict[str, Any]:
    """Return metadata as a mapping; raises :class:`CannotMergeError` where they are none."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(front, loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        said = one_line(error)[:80]
        raise CannotMergeError(f"its metadata are no YAML ({said})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CannotMergeError("its metadata are no YAML mapping")
    return content


def merged_front(written: dict[str, Any], new: str, edited: str) -> str:
    """Return the YAML of an edited card with what ftplug had ``written`` there renewed.

    Keys and list entries that the author added stay, and so does a value that the author changed,
    unless ``new`` has a third one.
    """
    before, now = parsed(edited), parsed(new)
    merged = {}
    for key in dict.fromkeys([*before, *now]):
        value = _merged(key, written.get(key), now.get(key), before.get(key))
        if value is not None:
            merged[key] = value
    if merged == before:
        return edited
    kept = _chunks(edited)
    text = "".join(
        kept[key] if key in kept and merged[key] == before.get(key) else _dumped({key: merged[key]})
        for key in merged
    )
    return text if _reads(text) == merged else _dumped(merged)


def _merged(key: str, written: Any, now: Any, before: Any) -> Any:
    if before == now or before is None:  # a key that the author took out is the Hub's to have
        return now
    if before == written:
        return now
    if _is_words(before) and _is_words(now) and (written is None or _is_words(written)):
        stays = [word for word in before if word in now or word not in (written or ())]
        return [*stays, *(word for word in now if word not in stays)]
    if now in (None, written):  # the author's own
        return before
    raise CannotMergeError(f"its metadata have another {key} than this artifact and the one before")


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _chunks(front: str) -> dict[str, str]:
    """Return the lines of each top-level key, with the comments below it."""
    chunks: dict[str, str] = {}
    key = ""
    for line in front.splitlines(keepends=True):
        if found := _KEY.match(line):
            key = next(name for name in found.groups() if name)
        chunks[key] = chunks.get(key, "") + line
    if comment := chunks.pop("", ""):
        first = next(iter(chunks), None)
        if first is not None:
            chunks[first] = comment + chunks[first]
    return chunks


def _dumped(values: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _reads(text: str) -> Any:
    try:
        return parsed(text)
    except CannotMergeError:
        return None
