"""One of the processes that train a case together: what it is sent, what it answers."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ftplug.method import Method
from ftplug.testing.case import Case
from ftplug.testing.compare import base_model
from ftplug.testing.run import CHECKPOINT, STEPS, Run, train

COLLECTIVE_SECONDS = 60  # then gloo gives up


@dataclass(frozen=True)
class Outcome:
    """What one process ended with: a digest of each tensor, and what moved and was active.

    ``resumed`` are the digests after resuming at the first checkpoint.
    """

    digests: Mapping[str, str]
    resumed: Mapping[str, str]
    moved: frozenset[str]
    active: frozenset[str]
    original: Mapping[str, str]


@dataclass(frozen=True)
class Source:
    """Where a class stands, since the module of a test often cannot be imported by name."""

    module: str
    file: str
    name: str

    @classmethod
    def of(cls, method: type[Method]) -> Source:
        """Return the source of a class."""
        return cls(method.__module__, inspect.getfile(method), method.__qualname__)

    def load(self) -> type[Method]:
        """Import the class by its module's name, or from its file."""
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            spec = importlib.util.spec_from_file_location(self.module, self.file)
            assert spec is not None and spec.loader is not None
            module = sys.modules[self.module] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        method_class: type[Method] = getattr(module, self.name)
        return method_class


@dataclass(frozen=True)
class Job:
    """A case as another process can build it; ``options`` are arguments of its Trainer."""

    methods: list[tuple[Source, dict[str, Any]]]
    family: str
    learning_rate: float
    folder: Path
    options: Mapping[str, Any]

    @classmethod
    def of(cls, case: Case, folder: Path, **options: Any) -> Job:
        """Return the job of a case."""
        methods = [(Source.of(type(m)), m.settings()) for m in case.methods()]
        return cls(methods, case.family, case.learning_rate, folder, options)

    def do(self) -> Outcome:
        """Train, and resume from the first checkpoint, as one of the processes."""
        run = self.train()
        resumed = self.train(self.folder / f"checkpoint-{CHECKPOINT}")
        may_train = set(run.attached.plan.may_train)
        active = frozenset(run.ever_active & may_train)
        return Outcome(digests(run), digests(resumed), frozenset(run.moved), active, run.original)

    def train(self, resume_from: Path | None = None) -> Run:
        """Train a fresh model with fresh methods."""
        methods = [source.load().configure(settings) for source, settings in self.methods]
        return train(
            base_model(self.family, dropout=0.1),
            methods,
            self.folder,
            learning_rate=self.learning_rate,
            resume_from=resume_from,
            **self.options,
        )


def digests(run: Run) -> dict[str, str]:
    """Return a digest of each tensor after the last step."""
    last = run.weights[STEPS]
    return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in last.items()}


def work(rank: int, ranks: int, meeting: Path, connection: Connection) -> None:
    """Join the group, then do job after job until the parent hangs up."""
    import torch

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # asked for, never used
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.distributed.init_process_group(
        "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )
    connection.send(True)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(job.do())
        except Exception as error:  # whatever the method under test does
            connection.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
