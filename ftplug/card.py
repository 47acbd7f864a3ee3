"""The model card of an artifact, written by whatever package offers one."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftplug.manifest import Manifest

GROUP = "ftplug.cards"


def render_card(manifest: Manifest) -> str:
    """Return the text of ``README.md``, from the first entry point or as a bare title."""
    for point in importlib.metadata.entry_points(group=GROUP):
        text: str = point.load()(asdict(manifest))
        return text
    return f"# {manifest.method_names} on {manifest.base.get('id') or 'a base model'}\n"
