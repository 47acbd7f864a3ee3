"""What a run tells the processes that its script starts, and what they tell the run.

A variable of the environment carries the run; a folder in front of PYTHONPATH has a
``sitecustomize`` that looks for it in every Python. Each Trainer of a child leaves a record of
itself in a folder of the run's.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from ftplug.context import logger
from ftplug.errors import MethodError

RUN = "FTPLUG_RUN"  # as in path/sitecustomize.py, which imports nothing of ours
_PATH = str(Path(__file__).parent / "path")
_PATIENCE = 120.0  # seconds
_POOLS = "_process_worker"  # what the processes of executors run: they end after the script does


class Record(TypedDict):
    """What is known of one Trainer in a child; ``ended`` once no more will be."""

    process: int
    ended: bool
    refused: str | None
    summary: dict[str, Any]


@dataclass
class Records:
    """The records of a run's children, in a folder; None where there is no place for one."""

    folder: Path | None = None
    numbers: dict[int, str] = field(default_factory=dict)  # of this process's Trainers: file names

    def write(
        self, trainer: int, *, ended: bool, refused: str | None, summary: dict[str, Any]
    ) -> None:
        """Leave or renew the record of a Trainer of this process; it appears whole."""
        if self.folder is None:
            raise MethodError(
                "ftplug run reaches no other process without a temporary folder, where that says "
                "what it trained: set TMPDIR to a folder that can be written"
            )
        name = self.numbers.setdefault(trainer, f"{time.time_ns()}-{os.getpid()}")
        part = self.folder / f"{name}.part"
        record: Record = {
            "process": os.getpid(), "ended": ended, "refused": refused, "summary": summary,
        }  # fmt: skip
        try:
            part.write_text(json.dumps(record, default=str), encoding="utf-8")
            part.replace(part.with_suffix(".json"))
        except OSError as error:
            logger.warning("this training is not in what ftplug run reports: %s", error)

    def read(self) -> list[Record]:
        """Return what there is, the oldest first."""
        paths = sorted(self.folder.glob("*.json")) if self.folder else []
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@contextmanager
def told(run: Mapping[str, Any]) -> Iterator[Records]:
    """Let the processes that are started within know a run; yield what they say of themselves."""
    try:
        folder = tempfile.mkdtemp(prefix="ftplug-run-")
    except OSError:
        folder = None
    process, before = os.getpid(), {name: os.environ.get(name) for name in (RUN, "PYTHONPATH")}
    os.environ[RUN] = json.dumps({**run, "records": folder})
    os.environ["PYTHONPATH"] = os.pathsep.join([_PATH, *filter(None, [before["PYTHONPATH"]])])
    try:
        yield Records(Path(folder) if folder else None)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if folder and os.getpid() == process:  # not in a fork that leaves the script
            shutil.rmtree(folder, ignore_errors=True)


def is_told(environment: Mapping[str, str]) -> bool:
    """Whether a Python that starts with this environment knows of the run."""
    return RUN in environment and _PATH in environment.get("PYTHONPATH", "").split(os.pathsep)


def wait_for_children(records: Records) -> None:
    """Wait for the processes that Python would wait for at its end, which comes after the report.

    For one that builds no Trainer in the first minutes no longer than that: it may wait for what
    the script does at exit. Executors end theirs only after this.
    """
    if (multiprocessing := sys.modules.get("multiprocessing")) is None:
        return
    patience = time.monotonic() + _PATIENCE
    while True:
        training = {r["process"] for r in records.read() if not r["ended"]}
        waited_for = [
            child
            for child in multiprocessing.active_children()
            if not child.daemon
            and getattr(getattr(child, "_target", None), "__name__", "") != _POOLS
            and (child.pid in training or time.monotonic() < patience)
        ]
        if not waited_for:
            return
        waited_for[0].join(0.2)
