"""A folder takes another one's place, with no moment at which neither is there."""

from __future__ import annotations

import ctypes
import math
import os
import shutil
from pathlib import Path

from ftplug.files.flush import flush, flush_directory

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # man 2 renameat2


def replace_directory(stage: Path, target: Path, since: float = math.inf) -> None:
    """Flush ``stage`` and give it the name ``target``, whatever was there before.

    What was written into ``target`` after ``since`` (seconds since the epoch) comes along.
    """
    for path in target.glob("*") if target.is_dir() else ():
        if path.stat().st_mtime >= since and not (stage / path.name).exists():
            path.rename(stage / path.name)
    flush(stage)
    if not target.exists():
        stage.rename(target)
    elif exchange(stage, target):
        shutil.rmtree(stage)
    else:  # two steps: a crash between them leaves both, under the names of stages
        old = stage.with_name(f"{stage.name}-old")
        target.rename(old)
        stage.rename(target)
        shutil.rmtree(old)
    flush_directory(target.parent)


def exchange(first: Path, second: Path) -> bool:
    """Let two names of one file system change places in one step; False where none can do that."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # not Linux, or an old C library
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
