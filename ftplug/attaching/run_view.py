"""The run as its methods see it: what fulfils :class:`ftplug.context.RunView`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ftplug.attaching.original_values import OriginalValues
from ftplug.attaching.plan import Plan, scheduled
from ftplug.base.inspecting import Base
from ftplug.context import BaseView, Context
from ftplug.errors import MethodError, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainingArguments

    from ftplug.host import Host
    from ftplug.method import Method


class Surroundings(Protocol):
    """What differs between a Trainer and a hand-written loop."""

    @property
    def args(self) -> TrainingArguments | None:
        """The Trainer's arguments."""

    @property
    def total_steps(self) -> int | None:
        """The optimizer steps of the run."""

    @property
    def is_built(self) -> bool:
        """Whether a Trainer was there before the methods, and has set what it sets in a config."""

    def log(self, scalars: Mapping[str, float]) -> None:
        """Keep numbers for the next log entry."""

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the mean over all processes."""


@dataclass
class NoTrainer:
    """A hand-written loop, or loading: ``scalars`` keeps what methods log, for the manifest."""

    args: TrainingArguments | None = None
    total_steps: int | None = None
    is_built: bool = False
    scalars: list[dict[str, float]] = field(default_factory=list)

    def log(self, scalars: Mapping[str, float]) -> None:
        """Keep the numbers, call by call."""
        self.scalars.append(dict(scalars))

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the tensor: there is one process, or the loop sees to the others."""
        return tensor


@dataclass(eq=False)
class RunFacts:
    """What one run knows, for all of its methods.

    ``plan`` and ``original_values`` come once every method has chosen. ``states`` are the methods'
    own, by name of the method. Holds no reference to the model.
    """

    context: Context
    base: Base
    surroundings: Surroundings
    plan: Plan | None = None
    original_values: OriginalValues | None = None
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def views(self, host: Host) -> Callable[[Method, nn.Module], MethodRun]:
        """Return what makes the view of one method on one model."""
        return lambda method, model: MethodRun(self, host, method, model)


@dataclass(frozen=True, slots=True)
class MethodRun:
    """The view of one method, made for each call of a hook; see :class:`ftplug.context.RunView`."""

    _facts: RunFacts
    _host: Host
    _method: Method
    _model: nn.Module

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self._facts.context.seed

    @property
    def args(self) -> TrainingArguments | None:
        """The Trainer's arguments; None outside of a Trainer."""
        return self._facts.surroundings.args or self._facts.context.args

    @property
    def task(self) -> str | None:
        """The Hub's pipeline tag of the model's class."""
        return self._facts.context.task

    @property
    def total_steps(self) -> int | None:
        """The optimizer steps of the run, where they are known."""
        return self._facts.surroundings.total_steps or self._facts.context.total_steps

    @property
    def loading(self) -> bool:
        """Whether an artifact's values follow."""
        return self._facts.context.loading

    @property
    def base(self) -> BaseView:
        """The base model's identity and its fresh parameters."""
        base, plan = self._facts.base, self._facts.plan
        return BaseView(base.id, base.revision, frozenset(plan.fresh if plan else base.fresh))

    @property
    def may_train(self) -> frozenset[str]:
        """The names of all parameters that may train in this run."""
        return frozenset(self._plan("may_train").may_train)

    @property
    def added(self) -> frozenset[str]:
        """The names of the parameters that the base does not have."""
        return frozenset(self._plan("added").added)

    @property
    def saved(self) -> tuple[str, ...]:
        """The names of the tensors that checkpoints and artifacts hold."""
        return self._plan("saved").saved

    @property
    def state(self) -> dict[str, Tensor]:
        """What this method needs to resume, by names of its own."""
        return self._facts.states.setdefault(self._method.name, {})

    def trains_in(self, step: int) -> frozenset[str]:
        """Return what trains in optimizer step ``step`` (0-based), by all methods' schedules."""
        plan = self._plan("trains_in")
        if not self._host.implements("schedule_trainable"):
            return frozenset(plan.may_train)
        if (total := self.total_steps) is None:
            raise MethodError(
                f"{self._method.name}: run.trains_in needs the number of steps of the run, which "
                "only a Trainer knows"
            )
        return frozenset(scheduled(self._model, self._host, plan, step, total))

    def base_values(self, names: Collection[str]) -> Mapping[str, Tensor]:
        """Return the values that the base's own tensors had before training."""
        plan, values = self._plan("base_values"), self._facts.original_values
        if unknown := sorted(set(names) - set(plan.existing)):
            raise MethodError(
                f"{self._method.name}: run.base_values: {unknown[0]!r} is no parameter of the base "
                f"that may train ({len(unknown)} of {len(names)} names)"
            )
        if not names:
            return {}
        if values is None:
            raise MethodError(f"{self._method.name}: run.base_values comes after finish_model")
        if next(self._model.parameters()).is_meta:
            raise MethodError(
                f"{self._method.name}: run.base_values: this is a copy without values, on which "
                "loading is rehearsed: ask for them in a hook of training"
            )
        known = values.on_device_of(self._model)
        return {name: known[name] for name in names}

    def log(self, **scalars: float) -> None:
        """Add numbers to the run's next log entry and to the manifest's history."""
        numbers: dict[str, float] = {}
        for name, value in scalars.items():
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:  # also of a tensor with many
                raise MethodError(
                    f"{self._method.name}: run.log: {name}={value!r} is not one number: "
                    f"{one_line(error)}"
                ) from error
        self._facts.surroundings.log(numbers)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes."""
        return self._facts.surroundings.reduce(tensor)

    def _plan(self, asked: str) -> Plan:
        if self._facts.plan is None:
            raise MethodError(
                f"{self._method.name}: run.{asked} is known once every method has answered "
                "select_trainable: ask for it in finish_model or later"
            )
        return self._facts.plan
