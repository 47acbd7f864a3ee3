"""Writing folders so that they appear complete or not at all."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftplug.errors import ArtifactError
from ftplug.files.flush import flush, flush_directory

STAGE = "_ftplug_staging-"  # the Trainer's uploads skip names that start with an underscore
COMMITTED = "_ftplug_committed-"  # complete: to be moved into the folder around it
JOURNAL = "_ftplug_journal.json"  # how a committed folder is moved
_OPEN: set[Path] = set()  # stages that threads of this process are writing
_NUMBERS = itertools.count()
_MOVE_SECONDS = 60.0
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def staged(target: Path, last: str, obsolete: Collection[str] = ()) -> Iterator[Path]:
    """Yield a folder to fill; on success it is flushed to disk and takes its place as ``target``.

    On an error ``target`` stays as it was. Where it exists already (a Trainer's output folder, a
    mount) the stage lies inside it. Its file ``last`` goes first and comes last: as long as that
    file is there, everything that belongs to it is. Files named in ``obsolete`` go with it. What a
    crash leaves half moved is finished by the next reader or writer (:func:`finish_interrupted`).
    """
    exists = target.exists()
    around = target if exists else target.parent
    around.mkdir(parents=True, exist_ok=True)
    finish_interrupted(around)
    stage = open_stage(around, STAGE)
    committed = stage.with_name(stage.name.replace(STAGE, COMMITTED, 1))
    _OPEN.add(committed.resolve())
    try:
        yield stage
        _give_usual_permissions(stage)
        if exists:
            _check_places(stage, target)
            _write_journal(stage, last, obsolete)
            flush(stage)
            stage.rename(committed)  # from here on it is the new one
            flush_directory(around)
            _move_out(committed)
        else:
            flush(stage)
            stage.rename(target)
            flush_directory(around)
    finally:
        close_stage(stage)
        _OPEN.discard(committed.resolve())


def finish_interrupted(target: Path) -> None:
    """Move in what a killed process had written completely, but not yet moved, into a folder."""
    for committed in _abandoned(target, COMMITTED):
        with stated_write_errors(target):
            _check_inside(committed, target)
            _move_out(committed)


def _check_inside(committed: Path, target: Path) -> None:
    """Refuse a folder from elsewhere that would have files outside it removed or written."""
    names = [path.relative_to(committed).as_posix() for path in committed.rglob("*")]
    if (committed / JOURNAL).is_file():
        try:
            said = json.loads((committed / JOURNAL).read_text(encoding="utf-8"))
            names += [said["last"], *said["obsolete"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{committed}: not a save that was interrupted: remove it"
            ) from error
    for name in names:
        if not (target / str(name)).parent.resolve().is_relative_to(target.resolve()):
            raise ArtifactError(f"{committed}: {name!r} leads out of {target}: remove it")


def _write_journal(stage: Path, last: str, obsolete: Collection[str]) -> None:
    gone = [name for name in (last, *obsolete) if not (stage / name).exists()]
    (stage / JOURNAL).write_text(json.dumps({"last": last, "obsolete": gone}), encoding="utf-8")


def _move_out(committed: Path) -> None:
    """Move a committed folder's files into the folder around it; safe to begin anew."""
    target, journal = committed.parent, committed / JOURNAL
    if journal.is_file():  # otherwise all was moved, and only its removal was interrupted
        said = json.loads(journal.read_text(encoding="utf-8"))
        if (committed / said["last"]).exists():
            (target / said["last"]).unlink(missing_ok=True)
        for name in said["obsolete"]:
            (target / name).unlink(missing_ok=True)
        _move_into(committed, target, said["last"])
    shutil.rmtree(committed)


def open_stage(around: Path, prefix: str) -> Path:
    """Make a folder of this thread's own to write into; what killed processes left is removed."""
    remove_abandoned(around, prefix)
    stage = around / f"{prefix}{next(_NUMBERS)}-{_MACHINE}-{os.getpid()}"
    _OPEN.add(stage.resolve())
    stage.mkdir()
    return stage


def close_stage(stage: Path) -> None:
    """Remove a stage and what is left in it."""
    shutil.rmtree(stage, ignore_errors=True)
    _OPEN.discard(stage.resolve())


@contextmanager
def stated_write_errors(target: Path) -> Iterator[None]:
    """Say in one line that a folder cannot be written (disk full, read-only, no permission)."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot write {target}: {error}: {_way_out(error)}") from error
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "inline_container" not in str(error):
            raise
        reason = str(error).partition("\n")[0]  # torch.save on a full disk
        raise ArtifactError(f"cannot write {target}: {reason}: {_way_out(error)}") from error


def _way_out(error: Exception) -> str:
    if isinstance(error, FileExistsError):
        return "then save again"
    shut = getattr(error, "errno", None) in (errno.EROFS, errno.EACCES, errno.EPERM)
    cure = "make it writable" if shut else "make room there"
    return f"{cure} or choose another folder; what was complete there still is"


def remove_abandoned(around: Path, prefix: str) -> None:
    """Remove the stages that killed processes left in a folder."""
    for stage in _abandoned(around, prefix):
        shutil.rmtree(stage, ignore_errors=True)


def _abandoned(around: Path, prefix: str) -> Iterator[Path]:
    """Yield what killed processes left in a folder; one may have had this process's number."""
    for stage in around.glob(f"{prefix}*"):
        _, _, machine_and_pid = stage.name.removeprefix(prefix).partition("-")
        machine, _, pid = machine_and_pid.partition("-")
        if machine != _MACHINE:
            # One that shares the folder: its processes cannot be seen here, but moves take no time.
            if prefix == COMMITTED and time.time() - stage.stat().st_mtime > _MOVE_SECONDS:
                yield stage
            continue
        if not pid.isdigit() or stage.resolve() in _OPEN:
            continue
        import psutil

        if int(pid) == os.getpid() or not psutil.pid_exists(int(pid)):
            yield stage


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
        if path.name == JOURNAL:
            continue
        destination = target / path.relative_to(stage)
        if path.is_dir():
            destination.mkdir(exist_ok=True)
        else:
            os.replace(path, destination)
    flush_directory(target)


def replace_file(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Give a file new content, flushed to disk: a crash leaves the old or the new one.

    ``mode`` holds the permissions from the first byte on, as far as the umask allows them.
    """
    stage = open_stage(path.parent, STAGE)
    try:
        descriptor = os.open(stage / path.name, os.O_WRONLY | os.O_CREAT, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        flush(stage)
        os.replace(stage / path.name, path)
        flush_directory(path.parent)
    finally:
        close_stage(stage)
