"""Where an adopted artifact is to lie: a free place outside of the adapter."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ftplug.errors import ArtifactError
from ftplug.files.staged import require_empty
from ftplug.files.write_errors import stated_write_errors


def refuse_taken(target: Path) -> None:
    """Raise :class:`ArtifactError` where there is something already, or nothing can be written."""
    with stated_write_errors(target):
        require_empty(target)
        around = next(p for p in (target, *target.absolute().parents) if os.path.lexists(p))
        if not around.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "no folder", str(around))
        if not os.access(around, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable", str(around))


def refuse_inside(target: Path, adapter: Path) -> None:
    """Raise :class:`ArtifactError` for a place in the adapter's folder, which stays as it is."""
    if Path(os.path.realpath(target)).is_relative_to(os.path.realpath(adapter)):
        raise ArtifactError(
            f"{target} lies in the adapter's own folder, which stays as it is: choose another "
            "folder (--to)"
        )
