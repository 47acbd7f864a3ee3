"""The text of a card as blocks: headings, tables, fenced code and paragraphs, each with its place.

``"".join(block.text + block.after for block in blocks(text)) == text`` for every text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

HEADING, TABLE, FENCE, PARAGRAPH = "heading", "table", "fence", "paragraph"

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}#{1,6}(\s|$)")


class Block(NamedTuple):
    """A piece of a card without the line ends that follow it, which are ``after``."""

    kind: str
    text: str
    after: str

    @property
    def content(self) -> str:
        """What the block says, however an editor lays it out: tables cell by cell."""
        lines = [line.rstrip() for line in self.text.splitlines()]
        return "\n".join(map(_row, lines)) if self.kind == TABLE else "\n".join(lines)


class Place(NamedTuple):
    """Where a block stands in a card that ftplug wrote: the how-manieth of a kind in a section."""

    section: str
    kind: str
    number: int


def blocks(text: str) -> list[Block]:
    """Split a text, whose line ends are ``\\n``."""
    found: list[Block] = []
    for kind, lines in _runs(text.splitlines(keepends=True)):
        joined = "".join(lines)
        body = joined.rstrip("\n")
        if kind:
            found.append(Block(kind, body, joined[len(body) :]))
        elif found:  # blank lines
            found[-1] = found[-1]._replace(after=found[-1].after + joined)
        else:
            found.append(Block(PARAGRAPH, "", joined))
    return found


def placed(text: str) -> dict[Place, Block]:
    """Return the blocks of a card that ftplug wrote, by place; a heading of level 2 opens one."""
    section, counts = "", Counter[tuple[str, str]]()
    found: dict[Place, Block] = {}
    for block in blocks(text):
        if block.kind == HEADING and block.text.startswith("## "):
            section = block.text[3:].strip()
            counts[section, ""] += 1  # a section of the same name is another one
            section += f" ({counts[section, '']})" if counts[section, ""] > 1 else ""
        found[Place(section, block.kind, counts[section, block.kind])] = block
        counts[section, block.kind] += 1
    return found


def _runs(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield runs of lines of one kind; blank lines have none."""
    run: list[str] = []
    kind = fence = ""
    for line in lines:
        now = FENCE if fence else _kind(line)
        if run and (now != kind or kind == HEADING or (now == FENCE and not fence)):
            yield kind, run
            run = []
        run.append(line)
        kind = now
        if fence:
            closing = line.strip()
            if len(closing) >= len(fence) and set(closing) == {fence[0]}:
                fence = ""
                yield kind, run
                run = []
        elif now == FENCE and (opened := _FENCE.match(line)):
            fence = opened[1]
    if run:
        yield kind, run


def _kind(line: str) -> str:
    if not line.strip():
        return ""
    if _FENCE.match(line):
        return FENCE
    if _HEADING.match(line):
        return HEADING
    return TABLE if line.lstrip().startswith("|") else PARAGRAPH


def _row(line: str) -> str:
    cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
    return "|".join("---" if re.fullmatch(r":?-+:?", cell) else cell for cell in cells)
