"""Writing folders so that they appear complete or not at all."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Len
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.errors import ArtifactError

STAGE = "_ftplug_staging-"  # the Trainer's uploads skip names that start with an underscore
_OPEN: set[Path] = set()  # stages that threads of this process are writing
_NUMBERS = itertools.count()


@contextmanager
def staged(target: Path, last: str, obsolete: Collection[str] = ()) -> Iterator[Path]:
    """Yield a folder to fill; on success it is flushed to disk and takes its place as ``target``.

    On an error ``target`` stays as it was. Where it exists already (a Trainer's output folder, a
    mount) the stage lies inside it, and its file ``last`` goes first and comes last: as long as
    that file is there, everything that belongs to it is. Files named in ``obsolete`` go with it.
    """
    exists = target.exists()
    around = target if exists else target.parent
    around.mkdir(parents=True, exist_ok=True)
    stage = open_stage(around, STAGE)
    try:
        yield stage
        _give_usual_permissions(stage)
        flush(stage)
        if exists:
            _check_places(stage, target)
            (target / last).unlink(missing_ok=True)
            for name in obsolete:
                if not (stage / name).exists():
                    (target / name).unlink(missing_ok=True)
            _move_into(stage, target, last)
        else:
            stage.rename(target)
        _flush_directory(around)
    finally:
        close_stage(stage)


def open_stage(around: Path, prefix: str) -> Path:
    """Make a folder of this thread's own to write into; what killed processes left is removed."""
    _remove_abandoned(around, prefix)
    stage = around / f"{prefix}{next(_NUMBERS)}-{os.getpid()}"
    _OPEN.add(stage)
    stage.mkdir()
    return stage


def close_stage(stage: Path) -> None:
    """Remove a stage and what is left in it."""
    shutil.rmtree(stage, ignore_errors=True)
    _OPEN.discard(stage)


@contextmanager
def stated(target: Path) -> Iterator[None]:
    """Say in one line that a folder cannot be written (disk full, read-only, no permission)."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot write {target}: {error}") from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        reason = str(error).partition("\n")[0]  # torch.save on a full disk
        raise ArtifactError(f"cannot write {target}: {reason}") from error


def _remove_abandoned(around: Path, prefix: str) -> None:
    """Remove what killed processes left in a folder; one may have had this process's number."""
    import psutil

    for stage in around.glob(f"{prefix}*"):
        pid = stage.name.rpartition("-")[2]
        if not pid.isdigit() or stage in _OPEN:
            continue
        if int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
            shutil.rmtree(stage, ignore_errors=True)


def _check_places(stage: Path, target: Path) -> None:
    """Refuse before anything is moved where a name is there already as another kind of thing."""
    for path in stage.rglob("*"):
        place = target / path.relative_to(stage)
        if place.exists() and path.is_dir() != place.is_dir():
            kind = "a folder" if place.is_dir() else "a file"
            raise FileExistsError(f"{place} is {kind}: move it away")


def _give_usual_permissions(stage: Path) -> None:
    """Give files those that the user's umask allows; safetensors makes its own private."""
    os.umask(mask := os.umask(0))
    for path in stage.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)


def _move_into(stage: Path, target: Path, last: str) -> None:
    for path in sorted(stage.rglob("*"), key=lambda path: (path.name == last, path)):
        destination = target / path.relative_to(stage)
        if path.is_dir():
            destination.mkdir(exist_ok=True)
        else:
            os.replace(path, destination)
    _flush_directory(target)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content, flushed to disk: a crash leaves the old or the new one."""
    stage = open_stage(path.parent, STAGE)
    try:
        (stage / path.name).write_bytes(content)
        flush(stage)
        os.replace(stage / path.name, path)
        _flush_directory(path.parent)
    finally:
        close_stage(stage)


def replace_directory(stage: Path, target: Path, since: float = math.inf) -> None:
    """Flush ``stage`` and give it the name ``target``, whatever was there before.

    What was written into ``target`` after ``since`` (seconds since the epoch) comes along.
    """
    for path in target.glob("*") if target.is_dir() else ():
        if path.stat().st_mtime >= since and not (stage / path.name).exists():
            path.rename(stage / path.name)
    flush(stage)
    if target.exists():
        old = stage.with_name(f"{stage.name}-old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        stage.rename(target)
        shutil.rmtree(old)
    else:
        stage.rename(target)
    _flush_directory(target.parent)


def flush(directory: Path) -> None:
    """Force every file below ``directory`` to disk: a rename must not outrun its data."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_directory(directory)


def _flush_directory(directory: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileEntry(TypedDict):
    """Size in bytes and sha256 of a file."""

    size: Annotated[int, Ge(0)]
    sha256: Annotated[str, Len(64, 64)]


def file_entry(path: Path) -> FileEntry:
    """Return size and digest of a file, as the manifest lists it."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}
