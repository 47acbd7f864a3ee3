"""``ftplug serve``: the embedded Hub on the command line."""

from __future__ import annotations


def serve() -> None:
    """Serve a Hub on this machine alone."""
    raise NotImplementedError
