"""One run at a time writes its checkpoints into a folder, one process at a time its settings."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ftplug.errors import ArtifactError

if sys.platform != "win32":
    import fcntl

_HELD: dict[Path, int] = {}  # the folders that this process has claimed, and their descriptors


@contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold a folder against other processes of this machine; refuse one that is held already.

    It is a lock on the folder itself: nothing is written, and the system frees it with the process,
    however that ends. Where a file system knows no locks nothing is held.
    """
    directory.mkdir(parents=True, exist_ok=True)
    place = directory.resolve()
    descriptor = None if place in _HELD else _lock(place)
    if descriptor is not None:
        _HELD[place] = descriptor
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(_HELD.pop(place))


@contextmanager
def awaited(directory: Path, seconds: float = 30.0) -> Iterator[None]:
    """Hold a folder against every other thread and process here, once it is free.

    Raises :class:`ArtifactError` where it is still held after ``seconds``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds
    while True:
        try:
            descriptor = _lock(directory.resolve())
            break
        except ArtifactError:
            if time.monotonic() > deadline:
                raise ArtifactError(f"{directory}: another process holds it: try again") from None
            time.sleep(0.01)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(directory: Path) -> int | None:
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ArtifactError(
            f"{directory}: another run is writing its checkpoints there: give this one another "
            "output_dir, or wait until that one has ended"
        ) from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _let_go() -> None:
    """A worker that outlives its killed parent must not hold on to the parent's folder."""
    while _HELD:
        os.close(_HELD.popitem()[1])


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go)
