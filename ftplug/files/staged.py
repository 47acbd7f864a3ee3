"""Writing folders so that they appear complete or not at all."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.errors import ArtifactError
from ftplug.files.flush import flush, flush_directory
from ftplug.files.folder_lock import awaited
from ftplug.files.write_errors import stated_write_errors

STAGE = "_ftplug_staging-"  # the Trainer's uploads skip names that start with an underscore
COMMITTED = "_ftplug_committed-"  # complete: to be moved into the folder around it
JOURNAL = "_ftplug_journal.json"  # how a committed folder is moved
OURS = "_ftplug"  # how the names begin of what is never a file of an artifact
_OPEN: set[Path] = set()  # stages that threads of this process are writing
_NUMBERS = itertools.count()
_MOVE_SECONDS = 60.0
_LARGEST = 2**20  # bytes of a journal
_MACHINE = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextmanager
def staged(
    target: Path, last: str, obsolete: Collection[str] = (), *, exist_ok: bool = True
) -> Iterator[Path]:
    """Yield a folder to fill; on success it is flushed to disk and takes its place as ``target``.

    On an error ``target`` stays as it was. Where it exists already (a Trainer's output folder, a
    mount) the stage lies inside it. Its file ``last`` goes first and comes last: as long as that
    file is there, everything that belongs to it is. Files named in ``obsolete`` go with it. What a
    crash leaves half moved is finished by the next writer (:func:`finish_interrupted`). Without
    ``exist_ok`` a folder that holds something, perhaps since a moment ago, is an ArtifactError.
    """
    exists = target.exists()
    with nullcontext() if exist_ok or not target.is_dir() else awaited(target):
        if not exist_ok:
            require_empty(target)
        with _staged(target, exists, last, obsolete) as stage:
            yield stage


def require_empty(target: Path) -> None:
    """Raise :class:`ArtifactError` where there is something already.

    What a killed process had not yet written completely does not count, and is removed.
    """
    with stated_write_errors(target):
        if target.is_dir():
            finish_interrupted(target)
            remove_abandoned(target, STAGE)
        if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
            raise ArtifactError(f"{target} exists already: choose another folder")


@contextmanager
def _staged(target: Path, exists: bool, last: str, obsolete: Collection[str]) -> Iterator[Path]:
    around = target if exists else target.parent
    around.mkdir(parents=True, exist_ok=True)
    finish_interrupted(around)
    stage = open_stage(around, STAGE)
    committed = stage
    try:
        yield stage
        _give_usual_permissions(stage)
        if exists:
            _check_places(stage, target)
            committed = _write_journal(stage, last, obsolete)
            _OPEN.add(committed.resolve())
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


def finish_interrupted(target: Path) -> bool:
    """Move in what a killed process had written completely, but not yet moved, into a folder.

    Only where this is the very folder that it was written in: files that came from elsewhere are
    moved by nobody, and are an ArtifactError. Returns whether anything was moved.
    """
    moved = False
    for committed in _abandoned(target, COMMITTED):
        with stated_write_errors(target):
            if not any(path.is_file() for path in committed.rglob("*")):
                shutil.rmtree(committed)  # all was moved: only its removal was interrupted
                continue
            if _journal(committed) is None:
                raise ArtifactError(
                    f"{committed}: no save into this folder left it (it was copied, or made by "
                    "somebody else): remove it"
                )
            _check_inside(committed, target)
            _move_out(committed)
            moved = True
    return moved


def require_whole(target: Path) -> None:
    """Refuse to read a folder that a save left half moved: that is for a writer to finish."""
    for committed in _abandoned(target, COMMITTED):
        if (journal := _journal(committed)) and (committed / journal["last"]).exists():
            raise ArtifactError(
                f"{target}: a save into it was interrupted while its files were being moved: "
                f"ftplug finish {target}, or save into it again"
            )


class _Journal(TypedDict):
    """How a committed folder is moved, and the folder that this is: a copy has another inode."""

    last: str
    obsolete: list[str]
    inode: int
    owner: int


def _journal(committed: Path) -> _Journal | None:
    """Return the journal of a committed folder if that was written here, by its own user.

    The time at which the journal's file was changed last is in the folder's name. Nobody can set
    it, so that neither a copy nor an archive nor a download has it.
    """
    import pydantic

    path, written = committed / JOURNAL, committed.name.rpartition("-")[2]
    try:
        found = committed.lstat()
        if path.stat().st_size > _LARGEST or written != str(path.lstat().st_ctime_ns):
            return None
        said = pydantic.TypeAdapter(_Journal).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None
    same = (found.st_ino, found.st_uid) == (said["inode"], said["owner"])
    return said if same else None


def _check_inside(committed: Path, target: Path) -> None:
    """Refuse to have files outside of a folder removed or written, as a link in it may do."""
    said = _journal(committed)
    names = [path.relative_to(committed).as_posix() for path in committed.rglob("*")]
    for name in [*names, *([said["last"], *said["obsolete"]] if said else [])]:
        if not (target / name).parent.resolve().is_relative_to(target.resolve()):
            raise ArtifactError(f"{committed}: {name!r} leads out of {target}: remove it")


def _write_journal(stage: Path, last: str, obsolete: Collection[str]) -> Path:
    """Write the journal into a stage; return the name that the committed folder gets."""
    gone = [name for name in (last, *obsolete) if not (stage / name).exists()]
    found, path = stage.lstat(), stage / JOURNAL
    journal: _Journal = {
        "last": last, "obsolete": gone, "inode": found.st_ino, "owner": found.st_uid,
    }  # fmt: skip
    path.write_text(json.dumps(journal), encoding="utf-8")
    changed = path.lstat().st_ctime_ns
    return stage.with_name(f"{stage.name.replace(STAGE, COMMITTED, 1)}-{changed}")


def _move_out(committed: Path) -> None:
    """Move a committed folder's files into the folder around it; safe to begin anew."""
    target = committed.parent
    said: _Journal = json.loads((committed / JOURNAL).read_text(encoding="utf-8"))
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


def remove_abandoned(around: Path, prefix: str) -> None:
    """Remove the stages that killed processes left in a folder."""
    for stage in _abandoned(around, prefix):
        shutil.rmtree(stage, ignore_errors=True)


def _abandoned(around: Path, prefix: str) -> Iterator[Path]:
    """Yield what killed processes left in a folder; one may have had this process's number."""
    if not os.path.isdir(around):  # in a glob some names of what is none raise
        return
    for stage in around.glob(f"{prefix}*"):
        _, _, machine_and_pid = stage.name.removeprefix(prefix).partition("-")
        machine, _, pid = machine_and_pid.partition("-")
        if prefix == COMMITTED:
            pid = pid.partition("-")[0]
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
