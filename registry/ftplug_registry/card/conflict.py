"""The one way in which merging a card fails."""

from __future__ import annotations


class CannotMergeError(Exception):
    """What an author did to a card and what ftplug would write do not go together; says what."""
