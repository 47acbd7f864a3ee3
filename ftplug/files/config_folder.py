"""Where the user's own settings lie."""

from __future__ import annotations

import os
from pathlib import Path


def config_folder() -> Path:
    """Return ``FTPLUG_CONFIG``, or the system's place: ``~/.config/ftplug`` and its like."""
    import typer

    return Path(os.environ.get("FTPLUG_CONFIG") or typer.get_app_dir("ftplug"))
