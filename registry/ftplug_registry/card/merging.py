"""An edited card with its generated parts renewed: the author's prose stays as it is.

Three texts meet: the card as ftplug had written it, the one that it writes now, and what an author
made of the first. A block that still reads as it was written is renewed wherever it stands now.
Tables are numbers: one that is not found as it was written is a conflict, never a guess.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ftplug_registry.card.blocks import HEADING, TABLE, Block, Place, blocks, placed
from ftplug_registry.card.conflict import CannotMergeError
from ftplug_registry.card.front_matter import merged_front, parsed, split

_OWN_TABLES = {
    "": "of facts",
    "Results": "of results",
    "Comparison": "of the comparison",
    "Training": "of the training",
}


@dataclass(frozen=True)
class _Part:
    """A block of the merged card; ``place`` where it is one that ftplug writes."""

    block: Block
    place: Place | None


def merged_card(written: Iterable[str], new: str, edited: str) -> str:
    """Return the edited card with metadata and generated blocks as the new one has them.

    ``written`` are texts that ftplug may have put there before the author edited it: the one that
    explains most of the card counts. Line ends stay as the author's editor made them. Raises
    :class:`CannotMergeError` where there is none, a generated table of it is not to be found, or
    metadata were changed both by hand and by ftplug.
    """
    crlf = edited.count("\r\n") * 2 > edited.count("\n")
    new, edited = (text.replace("\r\n", "\n") for text in (new, edited))
    front, body = split(edited)
    new_front, new_body = split(new)
    if not body.strip():  # metadata alone, as the Hub's form for a new repository writes them
        metadata, text = merged_front({}, new_front, front), f"\n{new_body.lstrip()}"
    else:
        base = _likeliest([text.replace("\r\n", "\n") for text in written], body)
        base_front, base_body = split(base)
        text = _merged_body(placed(base_body), placed(new_body), blocks(body))
        metadata = merged_front(parsed(base_front), new_front, front)
    merged = f"---\n{metadata}---\n{text}"
    return merged.replace("\n", "\r\n") if crlf else merged


def _likeliest(written: list[str], body: str) -> str:
    """Return the text of which most is still there, tables first."""
    there = {block.content for block in blocks(body)}

    def found(text: str) -> tuple[int, int]:
        parts = placed(split(text)[1])
        lost = [p for p, b in parts.items() if _is_own_table(p) and b.content not in there]
        return -len(lost), sum(block.content in there for block in parts.values())

    known = [text for text in written if found(text)[1]]
    if not known:
        raise CannotMergeError("nothing in it is as ftplug wrote it")
    return max(known, key=found)


def explains(text: str, edited: str) -> bool:
    """Whether every generated table of a text is in an edited card as it was written."""
    there = {block.content for block in blocks(split(edited.replace("\r\n", "\n"))[1])}
    parts = placed(split(text)[1])
    return all(b.content in there for p, b in parts.items() if _is_own_table(p))


def _is_own_table(place: Place) -> bool:
    return place.kind == TABLE and place.section in _OWN_TABLES


def _merged_body(
    written: Mapping[Place, Block], new: Mapping[Place, Block], edited: list[Block]
) -> str:
    found = _found(written, edited)
    lost = set(written).difference(found.values())
    for table in filter(_is_own_table, written):
        if table in lost:
            raise CannotMergeError(
                f"its table {_OWN_TABLES[table.section]} is not as ftplug wrote it"
            )
    parts: list[_Part] = []
    follows: Place | None = Place("", "", 0)  # the one kept behind, None where it is the author's
    for index, block in reversed(list(enumerate(edited))):
        place = found.get(index)
        if place is not None and place in new:
            parts.append(_Part(new[place]._replace(after=block.after), place))
        elif place is None or (block.kind == HEADING and follows is None):
            parts.append(_Part(block, None))
        else:
            continue
        follows = place
    parts.reverse()
    _insert(parts, written, new)
    return "".join(part.block.text + part.block.after for part in parts)


def _found(written: Mapping[Place, Block], edited: list[Block]) -> dict[int, Place]:
    """Return which of the edited card's blocks are as they were written, and where that was."""
    indices = defaultdict[str, list[int]](list)
    for index, block in enumerate(edited):
        indices[block.content].append(index)
    copies = Counter(block.content for block in written.values())
    found: dict[int, Place] = {}
    for place, block in written.items():
        there = indices[block.content]
        if _is_own_table(place) and len(there) > copies[block.content]:
            raise CannotMergeError(f"its table {_OWN_TABLES[place.section]} is there twice")
        if free := [index for index in there if index not in found]:
            found[free[0]] = place
    return found


def _insert(parts: list[_Part], written: Mapping[Place, Block], new: Mapping[Place, Block]) -> None:
    """Put what the new card has beyond the old one behind what precedes it there."""
    before: list[Place] = []
    for place, block in new.items():
        if place not in written:
            at = next((i for i in _indices(parts, before)), None)
            if at is None:
                raise CannotMergeError(f"there is no place left for its new {place.kind}")
            if not parts[at].block.after.endswith("\n\n"):
                spaced = parts[at].block._replace(after="\n\n")
                parts[at] = _Part(spaced, parts[at].place)
            parts.insert(at + 1, _Part(block, place))
        before.insert(0, place)


def _indices(parts: list[_Part], places: list[Place]) -> Iterable[int]:
    known = {part.place: index for index, part in enumerate(parts) if part.place}
    return (known[place] for place in places if place in known)
