"""Saved tensors that no input of a probe reaches: an expert that got no token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Self

from ftplug.attaching.sharding import is_sharded
from ftplug.effect.answers import Raw, ask
from ftplug.structure import named_tensors

if TYPE_CHECKING:
    from torch import nn

    from ftplug.effect.pieces import Input


class Called:
    """Notes which modules run within its block, of those that hold tensors of these names."""

    def __init__(self, model: nn.Module, names: Collection[str]) -> None:
        self._model = model
        self._silent: dict[str, list[str]] = {}  # by the name of the module
        for name in names:
            self._silent.setdefault(name.rpartition(".")[0], []).append(name)
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for owner in list(self._silent):
            module = self._model.get_submodule(owner)

            def hook(*_: Any, owner: str = owner) -> None:
                self._silent.pop(owner, None)

            self._handles.append(module.register_forward_pre_hook(hook))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def unseen(
        self, model: nn.Module, inputs: Sequence[Input], answers: Sequence[Raw]
    ) -> tuple[str, ...]:
        """Return the tensors whose halves change no answer, of those whose module never ran.

        A module that never ran may still be read: its tensors are halved all at once, and asked
        about. Of a model that processes share what did not run counts as unseen.
        """
        names = [name for held in self._silent.values() for name in held]
        if not names or is_sharded(model):
            return tuple(names)
        if _halves_change_nothing(model, names, inputs, answers):
            return tuple(names)
        if len(names) > _ONE_BY_ONE:
            return ()
        return tuple(n for n in names if _halves_change_nothing(model, [n], inputs, answers))


_ONE_BY_ONE = 32  # tensors that are asked about each by itself: as often is the model asked


def _halves_change_nothing(
    model: nn.Module, names: Sequence[str], inputs: Sequence[Input], answers: Sequence[Raw]
) -> bool:
    import torch

    live = named_tensors(model)
    before = {name: live[name].detach().clone() for name in names}
    try:
        with torch.no_grad():
            for name in names:
                live[name].mul_(0.5) if live[name].is_floating_point() else None
        raws = ask(model, inputs, continuations=False)
    finally:
        with torch.no_grad():
            for name, value in before.items():
                live[name].copy_(value)
    return all(
        now.answers.keys() == then.answers.keys()
        and all(now.answers[kind].equal(then.answers[kind]) for kind in now.answers)
        for now, then in zip(raws, answers, strict=True)
    )
