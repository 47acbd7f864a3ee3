"""Hidden states that processes with the same trunk share, in a folder of FTPLUG_SHARED_CACHE.

Who computes holds the folder's lock, and publishes before letting go: no example is computed twice,
and what a killed process leaves is either whole or removed by the next one that writes.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.context import logger, one_line
from ftplug_plugins.trunk_cache import segment
from ftplug_plugins.trunk_cache.cut import NAME, TrunkSpec
from ftplug_plugins.trunk_cache.identity import NotSharedError, trunk_key
from ftplug_plugins.trunk_cache.segment import SUFFIX, UNFINISHED, DamagedError, Segment

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SHARED_CACHE = "FTPLUG_SHARED_CACHE"  # the folder, for all trunks
SHARED_CACHE_BYTES = "FTPLUG_SHARED_CACHE_BYTES"
LIMIT = 8 * 2**30  # bytes
COMPUTED = "computed.jsonl"
_PATIENCE = 60.0  # seconds that one holder of the lock is waited for without anything new from it
_POLL = 0.002  # seconds: shorter than the step after which a holder asks for the lock again
_SMALL, _MANY = 2**24, 32  # so many files smaller than this (bytes) are made one


def shared_states(backbone: Any, spec: TrunkSpec, tag: str, rounded_to: str) -> SharedStates | None:
    """Return what is shared of a trunk, or None where nothing is asked for or can be."""
    place = os.environ.get(SHARED_CACHE)
    if not place:
        return None
    try:
        root, limit = Path(place).expanduser().resolve(), _limit()
        if sys.platform == "win32":
            raise NotSharedError("Windows has no locks that die with their process")
        key = trunk_key(backbone, spec, tag, rounded_to)
        return SharedStates(_own_folder(root, f"trunk-{key}"), key, limit)
    except (NotSharedError, OSError) as error:
        logger.warning(
            "%s: %s=%s: not shared, this run computes for itself: %s",
            *(NAME, SHARED_CACHE, place, one_line(error)),
        )
    return None


def computed(root: Path) -> dict[str, int]:
    """Return for how many examples each process computed a trunk, by machine and process id."""
    found: dict[str, int] = {}
    for file in root.glob(f"*/{COMPUTED}"):
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(
                ValueError, KeyError, TypeError
            ):  # one that was torn when its process was killed
                entry = json.loads(line)
                found[entry["process"]] = found.get(entry["process"], 0) + entry["examples"]
    return found


class SharedStates:
    """Hidden states (tokens, width) of one trunk by example, as far as they are published.

    ``folder`` belongs to this user. A process that cannot write goes on reading.
    """

    def __init__(self, folder: Path, key: str, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.writes = True
        self._key = key
        self._segments: dict[str, Segment] = {}  # by name
        self._found: dict[bytes, Tensor] = {}
        self._seen: set[str] = set()
        self._bad: list[Path] = []
        self._warned = False
        self._stamp = 0
        self._patience = 0.0 if _is_part_of_a_run() else _PATIENCE
        self.refresh()

    def __len__(self) -> int:
        return len(self._found)

    @property
    def types(self) -> tuple[torch.dtype, torch.dtype] | None:
        """What the trunk gave and what that was rounded to; None where nothing is known yet."""
        found = next(iter(self._segments.values()), None)
        return (found.computed_in, found.stored_in) if found else None

    def find(self, key: bytes) -> Tensor | None:
        """Return an example's (tokens, width), to be read only."""
        return self._found.get(key)

    def refresh(self, *, always: bool = False) -> None:
        """Map what others have published since; a file that is damaged is said, once."""
        try:
            stamp = self.folder.stat().st_mtime_ns
            if stamp == self._stamp and not always:
                return
            self._stamp = stamp
            names = {entry.name for entry in os.scandir(self.folder)}
        except OSError as error:
            self._stop_writing(f"{self.folder}: {one_line(error)}")
            return
        for gone in self._segments.keys() - names:  # made one with others: what is mapped stays
            del self._segments[gone]
        for name in sorted(names - self._seen):
            if name.endswith(SUFFIX):
                self._seen.add(name)
                self._read(self.folder / name)

    @contextmanager
    def filling(self, wanted: Collection[bytes]) -> Iterator[bool]:
        """Hold the lock, and say whether what is computed within may be published.

        Returns without it where everything ``wanted`` was published meanwhile, and where whoever
        holds it is waited for in vain: then this process computes for itself.
        """
        lock = self._open() if self.writes else None
        try:
            held = lock is not None and self._lock(lock, wanted)
            if not held:
                self.refresh()
            yield held
        finally:
            if lock is not None:
                with suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_UN)  # a forked child may have the descriptor, too
                os.close(lock)

    def publish(self, examples: Mapping[bytes, Tensor], computed_in: torch.dtype) -> bool:
        """Write examples (tokens, width), with the lock held; return whether all are there."""
        size = sum(states.nbytes for states in examples.values())
        used = _bytes_in(self.folder.parent)
        if used + size > self.limit:
            self._stop_writing(
                f"{self.folder.parent} holds {used:,} bytes of at most {self.limit:,} "
                f"({SHARED_CACHE_BYTES}), and takes no more"
            )
            return False
        try:
            self._read(segment.write(self.folder, self._key, examples, computed_in))
            self._make_one_of_many(computed_in)
        except OSError as error:
            self._stop_writing(f"{self.folder}: {one_line(error)}")
        return all(key in self._found for key in examples)

    def count(self, examples: int) -> None:
        """Add a line on what this process computed."""
        line = {"process": f"{socket.gethostname()}-{os.getpid()}", "examples": examples}
        with suppress(OSError), (self.folder / COMPUTED).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")

    def _read(self, path: Path) -> None:
        try:
            found = segment.read(path, self._key)
        except FileNotFoundError:  # made one with others
            return
        except DamagedError as error:
            if not self._warned:
                logger.warning(
                    "%s: %s is not used, its examples are computed anew: %s",
                    *(NAME, path, error),
                )
            self._warned = True
            self._bad += [path] if error.ours else []
            return
        self._seen.add(path.name)
        self._segments[path.name] = found
        self._found.update(found.examples)

    def _open(self) -> int | None:
        try:
            return os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            self._stop_writing(f"{self.folder}: {one_line(error)}")
        return None

    def _lock(self, lock: int, wanted: Collection[bytes]) -> bool:
        try:
            held = self._wait_for(lock, wanted)
        except OSError as error:  # a file system without locks
            self._stop_writing(f"{self.folder}: {one_line(error)}")
            return False
        if held:
            self._clean()
        return held

    def _wait_for(self, lock: int, wanted: Collection[bytes]) -> bool:
        end, known = time.monotonic() + self._patience, len(self)
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            self.refresh()
            if all(key in self._found for key in wanted):
                return False
            if len(self) > known:  # it is alive
                end, known = time.monotonic() + self._patience, len(self)
            if time.monotonic() >= end:
                if self._patience:
                    logger.warning(
                        "%s: %s: another process has held its lock for %.0f seconds: this one "
                        "computes for itself", NAME, self.folder, self._patience,
                    )  # fmt: skip
                self._patience = 0.0
                return False
            time.sleep(_POLL)

    def _clean(self) -> None:
        """Look once more, and remove what is damaged and what a killed process left half done."""
        self._forget_bad()  # somebody may have written it anew
        self.refresh(always=True)
        with suppress(OSError):
            for path in (*self._bad, *self.folder.glob(f"*{UNFINISHED}")):
                path.unlink(missing_ok=True)
            self._forget_bad()

    def _forget_bad(self) -> None:
        self._seen -= {path.name for path in self._bad}
        self._bad = []

    def _make_one_of_many(self, computed_in: torch.dtype) -> None:
        """Keep the number of files small, however small the batches are."""
        small = [found for found in self._segments.values() if found.size < _SMALL]
        if len(small) < _MANY:
            return
        examples = {key: states for found in small for key, states in found.examples.items()}
        path = segment.write(self.folder, self._key, examples, computed_in)
        for found in small:
            if found.path != path:
                self._segments.pop(found.path.name, None)
                found.path.unlink(missing_ok=True)
        self._read(path)

    def _stop_writing(self, why: str) -> None:
        if self.writes:
            logger.warning("%s: %s: what is new is kept by this run alone", NAME, why)
        self.writes = False


def _is_part_of_a_run() -> bool:
    """Whether other processes train beside this one: each has examples of its own to compute."""
    from torch import distributed

    started = distributed.is_available() and distributed.is_initialized()
    return started and distributed.get_world_size() > 1


def _bytes_in(root: Path) -> int:
    """Return how much is shared of all trunks."""
    total = 0
    for file in root.glob(f"*/*{SUFFIX}"):
        with suppress(OSError):  # another process made one of many
            total += file.stat().st_size
    return total


def _limit() -> int:
    """Return the most bytes that are shared, of all trunks together."""
    text = os.environ.get(SHARED_CACHE_BYTES) or str(LIMIT)
    if not text.isdecimal():
        raise NotSharedError(f"{SHARED_CACHE_BYTES}={text} is no number of bytes")
    return int(text)


def _own_folder(root: Path, name: str) -> Path:
    """Return a folder of this user alone, made where it is missing."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    status, user = root.stat(), os.geteuid()
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_uid != user and others_write and not status.st_mode & stat.S_ISVTX:
        raise NotSharedError("the folder is another user's, and others may write to it")
    folder = root / name
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user:
        raise NotSharedError(f"{folder} is another user's")
    return folder
