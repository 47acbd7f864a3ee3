"""What an adapter's author wrote of it: the card's text and metadata, as an artifact keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftplug.artifacts.author import Author, checked_author, is_repo_id
from ftplug.base.license import named_license
from ftplug.context import logger
from ftplug.errors import ArtifactError, one_line

_LONGEST = 100_000  # characters
_LONGEST_METADATA = 20_000
_MOST_BRACKETS = 200  # in metadata
_LONGEST_TEMPLATE = 300  # characters of a line that a template left open
_MOST_TAGS = 40
# Of libraries and of the Hub, which the new card says in its own way.
_OTHERS = re.compile(
    r"(peft|lora|transformers|trl|sft|dpo|grpo|unsloth|axolotl|adapters?|adapter-transformers|mlx"
    r"|mlx-lm|generated_from_trainer|safetensors|endpoints_compatible|text-generation-inference"
    r"|base_model:.*|region:.*|ftplug.*|license:.*|dataset:.*|arxiv:.*|autotrain.*)"
)
_UNSAID = re.compile(r"\[More Information Needed\](\([^()]{,200}\))?|\[optional\]", re.IGNORECASE)
_HEADING = re.compile(r"(#{1,6})\s")
_EMPTY = re.compile(r"\W*(\*\*[^*]*:\*\*|[\w ]*:)?\W*")


def author_of(card: Path) -> Author:
    """Return what a card says: its text as notes, licence, languages, data, tags.

    A card that cannot be read says nothing.
    """
    from huggingface_hub import ModelCard

    try:
        text = _bounded(card.read_text("utf-8", "replace"))
        content = ModelCard(text, ignore_metadata_errors=True)
        said = content.data.to_dict()  # type: ignore[no-untyped-call]
        return checked_author({**_facts(said), "notes": cleaned(content.text)})
    except ArtifactError:
        raise
    except Exception as error:  # a stranger's YAML may be anything
        reason = one_line(error)[:200]
        logger.warning("its %s is not readable as a model card: left out (%s)", card.name, reason)
        return {}


def _bounded(text: str) -> str:
    """Return a card that is parsed in a moment: of long metadata nothing, no thousands of breaks.

    Looking for the end of metadata, and YAML in Python, take time by the square of these.
    """
    text = re.sub(r"(\r?\n){3,}", "\n\n", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = text.lstrip("\n")
    end = text.find("\n---", 3) if text.startswith("---\n") else 0
    metadata = text[: max(end, 0)]
    if len(metadata) > _LONGEST_METADATA or sum(map(metadata.count, "[{")) > _MOST_BRACKETS:
        text = text[end + 4 :]
    return text[: _LONGEST + _LONGEST_METADATA]


def _facts(said: Mapping[str, Any]) -> dict[str, Any]:
    tags = [tag for tag in _texts(said.get("tags")) if not _OTHERS.fullmatch(tag.lower())]
    facts = {
        "license": named_license(said.get("license")),
        "language": _texts(said.get("language")),
        "datasets": [name for name in _texts(said.get("datasets")) if is_repo_id(name)],
        "tags": tags[:_MOST_TAGS],
    }
    return {name: value for name, value in facts.items() if value}


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [v for v in values if isinstance(v, str) and v.isprintable() and 0 < len(v) <= 100]


def cleaned(text: str) -> str | None:
    """Return a card's text two headings deeper, without what a template left open; None for none.

    Control characters go: a terminal may show it.
    """
    text = _without_comments(text[: _LONGEST + _LONGEST_METADATA])
    text = "".join(c for c in text if c in "\n\t" or c.isprintable())
    lines = [line.rstrip() for line in text[:_LONGEST].splitlines()]
    kept = "\n".join(_deeper(_without_empty(_said(lines))))
    return re.sub(r"\n{3,}", "\n\n", kept).strip() or None


def _without_comments(text: str) -> str:
    """Leave out comments, and the start of one that has no end: it would hide what follows."""
    kept, at = [], 0
    while (start := text.find("<!--", at)) >= 0 and (end := text.find("-->", start)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return "".join([*kept, text[at:].replace("<!--", "")])


def _said(lines: list[str]) -> Iterator[str]:
    """Leave out the lines of a template in which nothing was filled in."""
    for line in lines:
        if not _UNSAID.search(line):
            yield line
        elif _HEADING.match(line) or not _is_empty(_UNSAID.sub("", line)):
            yield _UNSAID.sub("", line).rstrip()


def _is_empty(line: str) -> bool:
    return len(line) <= _LONGEST_TEMPLATE and bool(_EMPTY.fullmatch(line))


def _without_empty(lines: Iterator[str]) -> list[str]:
    """Leave out headings with nothing below them, from the last one up."""
    kept: list[str] = []
    following = 1  # the level of the heading that follows, 0 where text does; as at the end
    fenced = False
    for line in reversed(list(lines)):
        fenced ^= line.startswith("```")
        level = 0 if fenced else _level(line)
        if not line.strip():
            kept.append(line)
            continue
        if level and following and following <= level:
            continue
        kept.append(line)
        following = level
    return kept[::-1]


def _level(line: str) -> int:
    found = _HEADING.match(f"{line} ")
    return len(found[1]) if found else 0


def _deeper(lines: list[str]) -> Iterator[str]:
    fenced = False
    for line in lines:
        fenced ^= line.startswith("```")
        deeper = _level(line) and not fenced
        yield f"{'#' * min(2, 6 - _level(line))}{line}" if deeper else line
    if fenced:
        yield "```"  # left open, it would take in what follows on the card
