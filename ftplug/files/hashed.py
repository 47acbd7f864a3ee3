"""A file that is opened once and hashed as it is read: what was checked is what is used."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ftplug.errors import ArtifactError

_CHUNK = 2**20  # bytes: hashed while they are in the processor's cache
# A pipe in place of a file must not block; Windows must not translate line ends.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class Identity:
    """What changes with a file: another one in its place, or other bytes in it."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return it as ``os.stat`` and ``os.fstat`` tell it; times in nanoseconds."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


class HashedFile:
    """A regular file of which every byte goes through one sha256, from the first to the last.

    Links are followed: a Hub's cache is made of them. Raises :class:`OSError` where there is no
    file, :class:`ArtifactError` where it is not a regular one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        descriptor = os.open(path, _FLAGS)
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        status = os.fstat(descriptor)
        self.identity = Identity.of(status)
        self._hash = hashlib.sha256()
        self.position = 0
        if not stat.S_ISREG(status.st_mode):
            self._file.close()
            raise ArtifactError(f"{path}: no regular file")

    @property
    def size(self) -> int:
        """The bytes that the file had when it was opened."""
        return self.identity.size

    def readinto(self, buffer: memoryview) -> None:
        """Fill a buffer of bytes with those that follow."""
        done = 0
        while done < len(buffer):
            part = buffer[done : done + _CHUNK]
            count = self._file.readinto(part) or 0
            if not count:
                raise ArtifactError(f"{self.path}: ends after {self.position} bytes: truncated")
            self._hash.update(part[:count])
            done += count
            self.position += count

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        buffer = bytearray(count)
        self.readinto(memoryview(buffer))
        return bytes(buffer)

    def sha256(self) -> str:
        """Read what is left and return the digest of all of it, in hex digits."""
        part = memoryview(bytearray(_CHUNK))
        while count := self._file.readinto(part) or 0:
            self._hash.update(part[:count])
            self.position += count
        return self._hash.hexdigest()

    def require_unchanged(self) -> None:
        """Refuse a file that somebody wrote to, moved or replaced since it was opened."""
        if Identity.of(os.fstat(self._file.fileno())) != self.identity:
            raise ArtifactError(f"{self.path}: changed while it was read: try again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
