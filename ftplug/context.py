"""The run as a method sees it: :class:`RunView`, which every hook may take as ``run``.

Beside it stand the few helpers that hooks need: the logger, reading tensors from a file, and one
line of another library's message.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ftplug.errors import ArtifactError, one_line
from ftplug.files.hashed import HashedFile
from ftplug.files.tensor_file import read_tensor_file, verified
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import TrainingArguments

__all__ = [
    "WEIGHTS",
    "BaseView",
    "Context",
    "RunView",
    "logger",
    "one_line",
    "quiet",
    "read_tensors",
]

logger = logging.getLogger("ftplug")

WEIGHTS = "ftplug.safetensors"
"""The artifact's file of all tensors that no method wrote into files of its own."""


@dataclass(frozen=True)
class BaseView:
    """The base model: its Hub id and commit sha, where it has them.

    ``fresh`` names the base's parameters that are in no checkpoint (a new head), as the model calls
    them now.
    """

    id: str | None
    revision: str | None
    fresh: frozenset[str]


class RunView(Protocol):
    """One run, for one of its methods: what a hook that takes ``run`` is given.

    It is the same within a Trainer, after :func:`ftplug.apply` and in the conformance kit; without
    a Trainer ``args`` is None, ``reduce`` returns its argument and ``state`` lives in memory.
    """

    @property
    def seed(self) -> int:
        """The seed of the run: what is drawn from it is equal on all processes and on resume."""

    @property
    def args(self) -> TrainingArguments | None:
        """The Trainer's arguments; None outside of a Trainer."""

    @property
    def task(self) -> str | None:
        """The Hub's pipeline tag of the model's class, e.g. ``text-classification``."""

    @property
    def total_steps(self) -> int | None:
        """The optimizer steps of the run, where they are known."""

    @property
    def loading(self) -> bool:
        """Whether an artifact's values follow: what is computed from data may be left out."""

    @property
    def base(self) -> BaseView:
        """The base model's identity and its fresh parameters."""

    @property
    def may_train(self) -> frozenset[str]:
        """The names of all parameters that may train in this run, the head included.

        Raises :class:`ftplug.MethodError` before every ``select_trainable`` was answered; so do
        ``added``, ``saved`` and ``base_values``.
        """

    @property
    def added(self) -> frozenset[str]:
        """The names of the parameters that the base does not have."""

    @property
    def saved(self) -> tuple[str, ...]:
        """The names of the tensors that checkpoints and artifacts hold, in the model's order."""

    @property
    def state(self) -> dict[str, Tensor]:
        """What this method needs to resume and nobody needs to load, by names of its own.

        It goes into checkpoints, never into artifacts, and is there again when a run is resumed. It
        must be equal on all processes: the first one's is written.
        """

    def trains_in(self, step: int) -> frozenset[str]:
        """Return what trains in optimizer step ``step`` (0-based), by all methods' schedules.

        Not for use in ``schedule_trainable``, which it asks.
        """

    def base_values(self, names: Collection[str]) -> Mapping[str, Tensor]:
        """Return the values that the base's own tensors had before training, where they live now.

        ``names`` are those of parameters that may train and that the base has. Kept from the first
        call on: it takes the memory of one more copy of them.
        """

    def log(self, **scalars: float) -> None:
        """Add numbers to the run's next log entry and to the manifest's history.

        Of several calls before a log entry the last one counts. On all processes; the first one's
        are logged.
        """

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, which must all call."""


@dataclass(frozen=True)
class Context:
    """Facts about a run, handed to hooks that take ``context``; :class:`RunView` has them too.

    ``args`` is None outside a Trainer; ``total_steps`` is None where it is not known in advance;
    ``loading`` is True when an artifact's values follow, so that data-dependent initialisation
    may be skipped.
    """

    seed: int
    task: str | None
    model_class: str
    args: TrainingArguments | None = None
    total_steps: int | None = None
    loading: bool = False
    logger: logging.Logger = logger


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, on the CPU; one that is damaged is an ArtifactError.

    In ``load_artifact`` the bytes that become tensors are those that fit the manifest's digest.
    """
    if (listed := verified.get({}).get(path)) is not None:
        return listed().tensors
    try:
        with HashedFile(path) as file:
            return read_tensor_file(file).tensors
    except OSError as error:
        raise ArtifactError(f"{path}: not readable: {one_line(error)}") from error
