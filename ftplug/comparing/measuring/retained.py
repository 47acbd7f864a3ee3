"""The text on which a language model should go on as its base does."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ftplug.errors import FtplugError


def retained_text(path: Path | None) -> str:
    """Return the text of a file, or the one that comes with ftplug.

    Raises :class:`FtplugError` where there is no such file, and where it holds no text.
    """
    if path is None:
        return (files("ftplug.comparing.measuring") / "retained.txt").read_text("utf-8")
    if not path.is_file():
        raise FtplugError(f"--retain {path}: no such file")
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FtplugError(f"--retain {path}: no text can be read: {error}") from None
    if not text.strip():
        raise FtplugError(f"--retain {path}: there is no text in it")
    return text
