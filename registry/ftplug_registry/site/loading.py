"""How to load an artifact: what one types, for the place that it was found in."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from ftplug_registry.card.metadata import base_id
from ftplug_registry.card.rows import HUB
from ftplug_registry.site.artifact import Artifact


class Snippet(NamedTuple):
    """Words before a block of code, and the code."""

    intro: str
    code: str


def snippets(artifact: Artifact) -> Iterator[Snippet]:
    """Yield the ways to load an artifact and to check it."""
    if artifact.manifest is None:
        return
    published = artifact.url is not None or artifact.sha is not None
    place = artifact.place if published else "path/to/the/artifact"
    base = base_id(artifact.facts) or "path/to/the/base"
    tag = next((one.name for one in artifact.versions if one.kind == "tag"), None)
    revision = f", revision={_text(tag)}" if published and tag else ""
    call = f"model = ftplug.load({_text(base)}, {_text(place)}{revision})"
    yield Snippet("In Python:", f"import ftplug\n\n{call}")
    lines = []
    if artifact.endpoint not in (None, HUB):
        lines.append(f"export HF_ENDPOINT={shlex.quote(str(artifact.endpoint))}")
    if published:
        lines.append(f"ftplug pull {shlex.quote(place)} --to adapter")
        place = "adapter"
    lines.append(f"ftplug verify {shlex.quote(place)} --files-only")
    yield Snippet("On the command line:", "\n".join(lines))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
