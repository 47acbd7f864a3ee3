"""Saved tensors that a probe does not see: of an expert that got no token, of a method's books."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from ftplug.attaching.plan import Plan
from ftplug.attaching.sharding import is_sharded
from ftplug.effect.answers import Raw, ask
from ftplug.structure import named_tensors, persistent_buffers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.effect.pieces import Input

_ONE_BY_ONE = 32  # tensors at most that are asked about each by itself


class Called:
    """Notes within its block which modules run, of those that hold saved tensors."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self._model, self._plan = model, plan
        self._silent: dict[str, list[str]] = {}  # by the name of the module
        for name in plan.saved:
            self._silent.setdefault(name.rpartition(".")[0], []).append(name)
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for owner in list(self._silent):

            def hook(*_: Any, owner: str = owner) -> None:
                self._silent.pop(owner, None)

            module = self._model.get_submodule(owner)
            self._handles.append(module.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def unseen(self, inputs: Sequence[Input], answers: Sequence[Raw]) -> tuple[str, ...]:
        """Return the tensors whose halves change no answer, of those that may be such.

        They are those of modules that never ran (which may still be read), and buffers (which may
        be for training alone). Of a model that processes share what never ran counts as unseen.
        """
        silent = {name for held in self._silent.values() for name in held}
        if is_sharded(self._model):
            return tuple(name for name in self._plan.saved if name in silent)
        buffers = {n for n, b in persistent_buffers(self._model) if b.is_floating_point()}
        asked = [name for name in self._plan.saved if name in silent | buffers]
        unseen: set[str] = set()
        for group in _groups(asked, silent):
            changes = _Halves(self._model, inputs, answers)
            if not changes.an_answer(group):
                unseen |= set(group)
            elif 1 < len(group) <= _ONE_BY_ONE:
                unseen |= {name for name in group if not changes.an_answer([name])}
        return tuple(name for name in asked if name in unseen)


def _groups(names: Sequence[str], silent: set[str]) -> Iterator[list[str]]:
    """Put together what stands in the same place of other layers; the kinds of buffers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        kind = re.sub(r"\d+", "#", name) if name in silent else name.rpartition(".")[2]
        groups.setdefault(kind, []).append(name)
    yield from groups.values()


class _Halves:
    """Asks the model with half of the values of some tensors."""

    def __init__(self, model: nn.Module, inputs: Sequence[Input], answers: Sequence[Raw]) -> None:
        self._model, self._asked = model, list(zip(inputs, answers, strict=True))

    def an_answer(self, names: Sequence[str]) -> bool:
        """Return whether halving these tensors changes an answer."""
        live = named_tensors(self._model)
        before = {n: live[n].detach().clone() for n in names if live[n].is_floating_point()}
        try:
            for name, value in before.items():
                _write(live[name], value / 2)
            return any(self._is_other(given, raw) for given, raw in self._asked)
        finally:
            for name, value in before.items():
                _write(live[name], value)

    def _is_other(self, given: Input, then: Raw) -> bool:
        [now] = ask(self._model, [given], continuations=False)
        return any(not now.answers[kind].equal(value) for kind, value in then.answers.items())


def _write(tensor: Tensor, value: Tensor) -> None:
    import torch

    with torch.no_grad():
        tensor.copy_(value)
