"""The random numbers that batches draw: kept with a checkpoint, drawn again by a resumed run.

A collator that masks tokens and a data set that crops images draw from the global generators, as
dropout does. accelerate fetches one batch ahead, to know which is the last: when a checkpoint is
written, the next batch has drawn already. transformers restores the states after that draw, and
fetches the batch again: with other numbers. So a checkpoint holds the states from before the batch
ahead was fetched and from after, and from before the epoch's order was drawn. Worker processes have
generators of their own: where their batches drew, a resumed epoch is read again from its beginning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ftplug.context import logger
from ftplug.errors import ArtifactError, one_line

FILE = "ftplug_batches_{}.pth"  # one of each process, as the Trainer's rng_state_0.pth


class GeneratorStates(NamedTuple):
    """The states of the generators that run on the CPU; equal where nothing was drawn between."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    torch: bytes

    @classmethod
    def now(cls) -> GeneratorStates:
        """Return the states as they are."""
        name, keys, *rest = np.random.get_state()
        return cls(
            random.getstate(),
            (name, np.asarray(keys).tobytes(), *rest),
            torch.get_rng_state().numpy().tobytes(),
        )

    def restore(self) -> None:
        """Let the generators go on from here."""
        name, keys, *rest = self.numpy
        random.setstate(self.python)
        np.random.set_state((name, np.frombuffer(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(torch.frombuffer(bytearray(self.torch), dtype=torch.uint8))


Ahead = tuple[int, GeneratorStates]  # a batch's index in its epoch, and the states before it


@dataclass(frozen=True)
class Moment:
    """What a resumed epoch needs to draw the same: kept in a file of the checkpoint.

    ``epoch`` is the state before the epoch's order was drawn, ``ahead`` the one before batch
    ``index`` of the epoch was fetched, ``then`` the one from which the next was. ``drew`` says
    whether batches drew in one of the ``workers``.
    """

    epoch: GeneratorStates
    index: int
    ahead: GeneratorStates
    then: GeneratorStates
    workers: int
    drew: bool

    def write(self, path: Path) -> None:
        """Write the file."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        states = {n: tuple(v) for n, v in values.items() if isinstance(v, GeneratorStates)}
        torch.save(values | states, path)

    def follows(self, skipped: int) -> int:
        """Return the index of the batch that is fetched from ``then`` on."""
        return max(self.index + 1, skipped)

    @classmethod
    def read(cls, path: Path) -> Moment:
        """Read it back, or raise an ArtifactError that names it."""
        try:
            found: dict[str, Any] = torch.load(path, weights_only=True)
            for name in ("epoch", "ahead", "then"):
                found[name] = GeneratorStates(*found[name])
            return cls(**found)
        except Exception as error:  # of a file that anybody may have written: many kinds
            raise ArtifactError(f"{path}: not readable: {one_line(error)}") from None


class Announced:
    """A batch sampler that tells the index of each batch before it is fetched.

    ``again`` stand-ins come first: the Trainer skips these in place of the batches themselves.
    """

    def __init__(self, sampler: Any, announce: Callable[[int], None], again: int) -> None:
        self.announced, self.announce, self.again = sampler, announce, again

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.again):
            yield []
        for index, batch in enumerate(self.announced):
            self.announce(index)
            yield batch

    def __len__(self) -> int:
        return len(self.announced)

    def __getattr__(self, name: str) -> Any:  # set_epoch, batch_size and the like
        if name == "announced":  # not yet there while it is being copied
            raise AttributeError(name)
        return getattr(self.announced, name)


class NotingCollator:
    """A collator in worker processes that notes whether their batches draw random numbers."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate
        self.drew = torch.zeros(1, dtype=torch.uint8).share_memory_()
        self._last: GeneratorStates | None = None

    def __call__(self, samples: Any) -> Any:
        """Return what the collator returns."""
        if self.drew[0]:
            return self.collate(samples)
        # The samples were made since the last batch; of the first one that moment is not known.
        before = self._last or GeneratorStates.now()
        batch = self.collate(samples)
        self._last = GeneratorStates.now()
        if self._last != before:
            self.drew[0] = 1
        return batch


class Batches:
    """The batches of one Trainer: where the generators stood for each, and where they have to."""

    def __init__(self) -> None:
        self._inexact = ""  # why a resumed epoch may draw other numbers
        self._resumed: Moment | None = None  # what the generators have to follow
        self._skipped = 0  # batches of the epoch that were trained on before
        self._again = 0  # of these, how many are read again
        self._workers = 0
        self._noted: NotingCollator | None = None
        self._epoch: GeneratorStates | None = None  # from before the epoch's order was drawn
        self._ahead: Ahead | None = None  # the batch fetched last
        self._step: tuple[int, GeneratorStates, Ahead | None] | None = None  # from before it

    @contextmanager
    def watching(
        self, loader: Any, moment: Path | None, skipped: int, inexact: str = ""
    ) -> Iterator[None]:
        """Watch an epoch of the loader; draw as ``moment`` says if it begins after ``skipped``.

        ``inexact`` says why it cannot: these batches are not those that it is of.
        """
        base = getattr(loader, "base_dataloader", loader)
        self._resumed, self._skipped, self._inexact, self._again = None, skipped, "", 0
        self._epoch = self._ahead = self._step = None
        streamed = isinstance(getattr(base, "dataset", None), IterableDataset)
        self._workers = base.num_workers if type(base) is DataLoader else 0
        ordered = type(base) is DataLoader and base.batch_sampler is not None and not streamed
        if not ordered and not (streamed and self._workers):
            self._inexact = "its data set or loader has no order to go by" if skipped else ""
            yield
            return
        sampler, collate = base.batch_sampler, base.collate_fn
        if self._workers and (self._noted is None or self._noted.collate is not collate):
            self._noted = NotingCollator(collate)
        if moment and skipped:
            self._resume(moment, inexact, persistent=bool(base.persistent_workers))
        if ordered:  # of a stream all batches are read as it is
            self._again = skipped if self._resumed and self._resumed.drew else 0
            # A DataLoader refuses to be assigned another sampler, as its length could change.
            vars(base)["batch_sampler"] = Announced(sampler, self._about_to_fetch, self._again)
        base.collate_fn = self._noted if self._noted and self._workers else collate
        try:
            yield
        finally:
            vars(base)["batch_sampler"], base.collate_fn = sampler, collate

    def _resume(self, path: Path, inexact: str, persistent: bool) -> None:
        if inexact:
            self._inexact = inexact
            return
        if not path.is_file():
            self._inexact = f"the checkpoint has no {path.name}"
            return
        moment = Moment.read(path)
        if moment.drew and moment.workers != self._workers:
            self._inexact = (
                f"dataloader_num_workers was {moment.workers}, and is {self._workers} now"
            )
        elif moment.drew and persistent:
            self._inexact = "persistent workers go on from the epoch before"
        else:
            self._resumed = moment

    def _about_to_fetch(self, index: int) -> None:
        """Take the states from before a batch, or put those of the interrupted run in place."""
        if (moment := self._resumed) and not self._workers:
            if index == moment.index >= self._skipped:
                moment.ahead.restore()
            elif index == moment.follows(self._skipped):
                moment.then.restore()
        self._ahead = index, GeneratorStates.now()

    @contextmanager
    def fetching(self, batches: Iterator[Any], step: int) -> Iterator[None]:
        """Watch the batches of optimizer step ``step`` (0-based) being fetched."""
        first, moment = self._epoch is None, self._resumed
        if first and moment:
            moment.epoch.restore()
        now = GeneratorStates.now()
        if first:
            self._epoch = now
        self._step = step, now, self._ahead
        if first and moment:
            self._step = step, moment.then, (moment.index, moment.ahead)
            for _ in range(self._again):
                next(batches, None)
        yield
        drew = self._noted.drew[0] if self._workers and self._noted else not first
        if self._inexact and drew and (self._workers or GeneratorStates.now() != now):
            self._warn()

    def _warn(self) -> None:
        logger.warning(
            "this epoch is resumed in its middle, and its batches draw random numbers (a collator "
            "or a transform): they may differ from the uninterrupted run's, as %s",
            self._inexact,
        )
        self._inexact = ""

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Keep the generators where the batches left them while the Trainer restores all others.

        It does so after the first batches of a resumed epoch, to what they were before these.
        """
        moment, self._resumed = self._resumed, None
        if moment is None or self._workers:
            yield
            return
        fetched = self._ahead is not None and self._ahead[0] >= moment.follows(self._skipped)
        states = GeneratorStates.now() if fetched else moment.then
        yield
        states.restore()

    def write(self, path: Path, step: int) -> None:
        """Write what a run that is resumed from a checkpoint at ``step`` needs."""
        if self._epoch is None:
            return
        then, ahead = GeneratorStates.now(), self._ahead
        if self._step and self._step[0] == step:  # its batches are fetched, but not yet trained on
            _, then, ahead = self._step
        index, before = ahead or (-1, then)
        drew = bool(self._workers and self._noted and self._noted.drew[0])
        Moment(self._epoch, index, before, then, self._workers, drew).write(path)
