"""One method on one tiny model: what the checks are given."""

from __future__ import annotations

import fnmatch
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from ftplug import discovery
from ftplug.applying import apply
from ftplug.artifacts.loading import load
from ftplug.artifacts.saving import save
from ftplug.artifacts.tensors import copy_tensors
from ftplug.attaching.attachment import require_attachment
from ftplug.errors import MethodError
from ftplug.host import Host, resolve
from ftplug.method import Method
from ftplug.testing import tiny
from ftplug.testing.compare import base_model, weights, without_gradient
from ftplug.testing.run import CHECKPOINT, EARLY, Run, train

T = TypeVar("T")


@dataclass(eq=False)
class Case:
    """A method on a family of tiny models, with what its author declares.

    ``method`` is a name, a Method class or an instance, and ``settings`` its settings. ``beside``
    are methods it needs beside it (an optimizer for LoRA needs LoRA); they come first. The others
    are explained at :class:`ftplug.testing.MethodContract`.

    Training is done once, when a check first asks for it; its files go when the case goes.
    """

    method: str | type[Method] | Method
    family: str = "bert"
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: Sequence[str | Method] = ()
    starts_at_base: bool = True
    mergeable: bool | Collection[str] | None = None
    quantizes: bool = False
    learning_rate: float = 1e-2
    optimizer_state: float = 2.0
    still: Sequence[str] = ()
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.family not in tiny.FAMILIES:
            raise MethodError(f"no family {self.family!r}: {', '.join(tiny.FAMILIES)}")
        self.host  # noqa: B018 - an unknown name or setting is said at once

    def __str__(self) -> str:
        return f"{self.configured.name} on {self.family}"

    @cached_property
    def configured(self) -> Method:
        """The method with its settings."""
        if isinstance(self.method, type):
            return self.method.configure(self.settings)
        return resolve([self.method], self.settings)[0]

    def methods(self) -> list[Method]:
        """Return fresh instances of all methods: none may carry anything from run to run."""
        chosen = [*resolve([self.beside], {})] if self.beside else []
        return [type(m).configure(m.settings()) for m in (*chosen, self.configured)]

    @cached_property
    def host(self) -> Host:
        """A host of the methods, to ask what they implement."""
        return Host(self.methods())

    @cached_property
    def folder(self) -> Path:
        """Where the case's files go."""
        folder = tempfile.mkdtemp(prefix="ftplug-contract-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def base(self, *, dropout: float = 0.0) -> Any:
        """Return the untouched model, in eval mode, always with the same values."""
        return base_model(self.family, dropout=dropout).to(self.device)

    def prepared(self) -> Any:
        """Return a base with the methods on it, untrained."""
        try:
            return apply(self.base(), *self.methods())
        except MethodError as error:
            raise AssertionError(
                f"{self}: refused: {error} (declare it in `unfit` where the method does not fit)"
            ) from error

    @cached_property
    def untrained(self) -> Any:
        """A prepared model to look at, not to change."""
        return self.prepared()

    def trained(self) -> Any:
        """Return a model of its own with the values that the run's best model has."""
        model = self.prepared()
        live = weights(self.run.model)
        plan = require_attachment(model).plan
        copy_tensors(model, plan, {name: live[name] for name in plan.saved})
        return model

    @cached_property
    def run(self) -> Run:
        """The uninterrupted run."""
        return self._once("training", lambda: self.train(self.folder / "run"))

    @cached_property
    def resumed(self) -> Run:
        """A run of a fresh model and fresh methods from the first run's checkpoint halfway."""
        return self._resumed_at(CHECKPOINT)

    @cached_property
    def resumed_early(self) -> Run:
        """The same from the checkpoint after the first step."""
        return self._resumed_at(EARLY)

    def _resumed_at(self, step: int) -> Run:
        checkpoint, folder = self.run.folder / f"checkpoint-{step}", self.folder / f"from-{step}"
        return self._once(f"resuming at step {step}", lambda: self.train(folder, checkpoint))

    @cached_property
    def artifact(self) -> Path:
        """The artifact of the run's best model."""
        return self._once("saving", lambda: save(self.run.model, self.folder / "artifact"))

    @cached_property
    def loaded(self) -> Any:
        """A fresh base with the artifact on it."""
        self.artifact  # noqa: B018 - a failure to save is named as such
        return self._once("loading", self._load)

    def _load(self) -> Any:
        with self.findable():
            return load(self.base(), self.artifact, check_effect=False)

    def may_stand_still(self, name: str, original: str | None) -> bool:
        """Whether the mathematics leaves a tensor (a base's, by its name there) without gradient.

        Or the author says so.
        """
        declared = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.still)
        return declared or original in without_gradient(self.family)

    def train(self, folder: Path, resume_from: Path | None = None) -> Run:
        """Train a fresh model, with dropout, through the real Trainer."""
        return train(
            self.base(dropout=0.1),
            self.methods(),
            folder,
            learning_rate=self.learning_rate,
            resume_from=resume_from,
            use_cpu=self.device == "cpu",
        )

    def _once(self, what: str, do: Callable[[], T]) -> T:
        """Do it, or say again why it failed: a failure is not tried twice."""
        failures: dict[str, Exception] = self.__dict__.setdefault("_failures", {})
        if what not in failures:
            try:
                return do()
            except Exception as error:  # whatever the method under test does
                failures[what] = error
        cause = failures[what]
        raise AssertionError(f"{self}: {what} failed: {type(cause).__name__}: {cause}") from cause

    @contextmanager
    def findable(self) -> Iterator[None]:
        """Let artifacts find a method that no installed distribution offers (yet)."""
        known = discovery.entries()
        for method in self.methods():
            known[method.name] = [_Given.of(method, known.get(method.name, []))]
        with mock.patch.object(discovery, "entries", return_value=known):
            yield


@dataclass(frozen=True)
class _Given(discovery.Entry):
    """The entry of a class that is at hand."""

    cls: type[Method] = Method

    @classmethod
    def of(cls, method: Method, installed: Sequence[discovery.Entry]) -> discovery.Entry:
        if installed and installed[0].value == f"{type(method).__module__}:{type(method).__name__}":
            return installed[0]
        return cls(method.name, type(method).__qualname__, "not-installed", "0", type(method))

    def load(self) -> type[Method]:
        """Return the class."""
        return self.cls


PARTNERS: Mapping[str, Mapping[str, Any]] = {
    "bottleneck": {"reduction_factor": 4},
    "lora": {"r": 4},
}


class Composed(Case):
    """The same method with an adapter and a regulariser behind it: bottleneck, or LoRA, and L2-SP.

    They fit all families of models.
    """

    @classmethod
    def of(cls, case: Case) -> Composed:
        """Return the composition of a case."""
        return cls(**{f.name: getattr(case, f.name) for f in fields(case)})

    def __str__(self) -> str:
        return f"{self.host.names} on {self.family}"

    def methods(self) -> list[Method]:
        """Return fresh instances: the partners are named last."""
        own = super().methods()
        partner = next(name for name in PARTNERS if name not in {m.name for m in own})
        regulariser = [] if self.configured.name == "l2-sp" else resolve(["l2-sp"], {})
        return [*own, *resolve([partner], PARTNERS[partner]), *regulariser]
