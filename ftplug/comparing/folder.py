"""The folder of a comparison: one process writes it at a time, and each line of it once."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ftplug.comparing import comparison as comparisons
from ftplug.comparing import results as lines
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import Cell, Result, read_results, to_line
from ftplug.errors import ArtifactError, FtplugError
from ftplug.files.flush import flush_directory
from ftplug.files.folder_lock import claimed
from ftplug.files.staged import OURS, STAGE, close_stage, open_stage, replace_file
from ftplug.files.swapping import replace_directory
from ftplug.files.write_errors import stated_write_errors

HOLDER = "running.json"  # who runs the comparison, while somebody does
RESULT = "result.json"  # of a cell, in its folder
LOG = "log.txt"
ARTIFACT, OUTPUT = "artifact", "output"  # of a cell: what it trained, its Trainer's own folder
PROGRESS = "progress.jsonl"  # the metric by epoch, while a cell runs
_MAY_CHANGE = ("key", "delta", "budget_minutes")
_MAY_GROW = ("candidates", "seeds")


@dataclass
class Folder:
    """A comparison's folder, held by this process: what was asked for, and what has ended."""

    path: Path
    comparison: Comparison
    results: list[Result]

    def cell(self, cell: Cell) -> Path:
        """Return the folder of a cell."""
        return self.path / lines.CELLS / cell.id

    def append(self, result: Result) -> None:
        """Write the line of a cell that has ended for good; it is on the disk when this returns."""
        with stated_write_errors(self.path), open(self.path / lines.FILE, "ab") as file:
            file.write(f"{to_line(result)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self.results.append(result)

    def empty(self, cell: Cell) -> Path:
        """Return the folder of a cell that is to begin, with nothing of an earlier try in it."""
        folder = self.cell(cell)
        with stated_write_errors(folder):
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
        return folder


@contextmanager
def opened(path: Path, wanted: Comparison) -> Iterator[Folder]:
    """Hold the folder of a comparison, made or gone on with; what has ended in it is kept.

    Raises :class:`FtplugError` in one line where another process holds it, where it is a file, and
    where it is of a comparison that differs in more than further candidates and seeds.
    """
    wanted.check_texts()
    if path.exists() and not path.is_dir():
        raise FtplugError(f"{path}: a file: give --out another folder")
    with stated_write_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with _held(path):
        comparison = _agreed(path, wanted)
        with stated_write_errors(path):
            comparison.write(path)
            _cut_torn_line(path / lines.FILE)
        folder = Folder(path, comparison, read_results(path / lines.FILE))
        _take_up_what_has_ended(folder)
        yield folder


def write_result(folder: Path, result: Result) -> None:
    """Leave the result of a cell in its folder; it appears whole."""
    replace_file(folder / RESULT, f"{to_line(result)}\n".encode())


def read_result(folder: Path) -> Result | None:
    """Return what :func:`write_result` left; None where there is none that is whole."""
    try:
        return lines.read_result((folder / RESULT).read_bytes())
    except (OSError, ValueError):
        return None


def read_progress(folder: Path) -> list[tuple[float, float]]:
    """Return ``(epoch, value)`` of a cell so far, more being better."""
    try:
        text = (folder / PROGRESS).read_text(encoding="utf-8")
    except OSError:
        return []
    whole = text.rpartition("\n")[0]
    return [
        (said["epoch"], said["value"])
        for said in map(json.loads, whole.split("\n") if whole else [])
    ]


def pruned(folder: Folder, cell: Cell, reason: str) -> Result:
    """Return the result of a cell that was ended from outside, with what it had reached."""
    result = Result(**dataclasses.asdict(cell), status="pruned", reason=reason)
    if like := next((one for one in folder.results if one.metric), None):
        result.metric, result.greater_is_better = like.metric, like.greater_is_better
        sign = 1 if like.greater_is_better else -1
        for epoch, value in read_progress(folder.cell(cell)):
            result.epochs.append({"epoch": epoch, "metrics": {like.metric: sign * value}})
    return result


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the lock of a folder, and say in it who does."""
    try:
        with claimed(path):
            said = {"process": os.getpid(), "host": socket.gethostname()}
            with stated_write_errors(path):
                replace_file(path / HOLDER, json.dumps(said).encode())
            try:
                yield
            finally:
                (path / HOLDER).unlink(missing_ok=True)
    except ArtifactError as error:
        if "another run is writing" not in str(error):
            raise
        raise FtplugError(
            f"{path}: {_holder(path)} is running a comparison there: wait until it has ended, or "
            "give --out another folder"
        ) from None


def _holder(path: Path) -> str:
    try:
        said = json.loads((path / HOLDER).read_text(encoding="utf-8"))
        return f"process {said['process']} on {said['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _agreed(path: Path, wanted: Comparison) -> Comparison:
    """Return the comparison that the folder is of from now on."""
    if not (path / comparisons.FILE).exists():
        names = [one.name for one in path.iterdir() if not one.name.startswith(OURS)]
        if strangers := [name for name in names if name != HOLDER]:
            raise FtplugError(
                f"{path}: no comparison, but not empty ({sorted(strangers)[0]}): give --out "
                "another folder"
            )
        return wanted
    before = Comparison.read(path)
    if differs := [name for name in _fields() if not _goes_on(name, before, wanted)]:
        old, new = (getattr(one, differs[0]) for one in (before, wanted))
        raise FtplugError(
            f"{path}: another comparison: its {_said(differs[0])} was {_shown(old)}, now it is "
            f"{_shown(new)}: give --out another folder, or remove this one"
        )
    return dataclasses.replace(wanted, key=before.key)


def _fields() -> list[str]:
    return [field.name for field in dataclasses.fields(Comparison)]


def _goes_on(name: str, before: Comparison, wanted: Comparison) -> bool:
    old, new = getattr(before, name), getattr(wanted, name)
    if name == "candidates":
        return set(old) <= set(new)
    return name in _MAY_CHANGE or (old <= new if name in _MAY_GROW else old == new)


def _said(name: str) -> str:
    options = {
        "rates": "--lr", "candidates": "--try", "module": "-m", "folder": "working folder",
        "greater_is_better": "--more-is-better",
    }  # fmt: skip
    return options.get(name, name if name == "command" else f"--{name.replace('_', '-')}")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "not given" if value is None else str(value)


def _cut_torn_line(path: Path) -> None:
    """Cut off what a kill left of a line: what is appended next begins on a line of its own."""
    with suppress(FileNotFoundError), open(path, "r+b") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)
            file.flush()
            os.fsync(file.fileno())


def _take_up_what_has_ended(folder: Folder) -> None:
    """Write the lines of cells that ended while nobody was there to write them."""
    ended = {result.cell for result in folder.results}
    for place in sorted((folder.path / lines.CELLS).glob("*")):
        result = read_result(place)
        if result and result.cell not in ended and result.cell.id == place.name:
            folder.append(result)
    flush_directory(folder.path)


def copy_of_artifact(source: Path, target: Path) -> None:
    """Give ``target`` a copy of an artifact, in one step."""
    with stated_write_errors(target):
        around = open_stage(target.parent, STAGE)
        try:
            shutil.copytree(source, around / target.name)
            replace_directory(around / target.name, target)
        finally:
            close_stage(around)


def drop(folder: Path, names: Sequence[str]) -> None:
    """Remove parts of a cell's folder."""
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)
