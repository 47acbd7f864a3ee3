"""Forcing files and the names of a folder to disk."""

from __future__ import annotations

import os
from pathlib import Path


def flush(directory: Path) -> None:
    """Force every file below ``directory`` to disk: a rename must not outrun its data."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    flush_directory(directory)


def flush_directory(directory: Path) -> None:
    """Force the names in a directory to disk, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
