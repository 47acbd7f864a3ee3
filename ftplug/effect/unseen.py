"""Saved tensors that a probe does not see: of an expert that got no token, of a method's books."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from ftplug.attaching.plan import Plan
from ftplug.attaching.sharding import is_sharded
from ftplug.context import logger
from ftplug.effect.answers import Raw, ask
from ftplug.errors import FtplugError
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
        Where that cannot be found out none is listed.
        """
        try:
            return self._found(inputs, answers)
        except FtplugError as error:
            logger.debug("what the probe does not see: %s", error)
            return ()

    def _found(self, inputs: Sequence[Input], answers: Sequence[Raw]) -> tuple[str, ...]:
        silent = {name for held in self._silent.values() for name in held}
        if is_sharded(self._model):
            return tuple(name for name in self._plan.saved if name in silent)
        buffers = {n for n, b in persistent_buffers(self._model) if b.is_floating_point()}
        names = [name for name in self._plan.saved if name in silent | buffers]
        if names:
            names = _unread(self._model, names, inputs)
        # A kernel may read without torch's knowledge.
        if not names or not _halves_change(self._model, names, inputs, answers):
            return tuple(names)
        if len(names) > _ONE_BY_ONE:
            return ()
        return tuple(n for n in names if not _halves_change(self._model, [n], inputs, answers))


def _unread(model: nn.Module, names: Sequence[str], inputs: Sequence[Input]) -> list[str]:
    """Return the tensors that no operation of a forward touches."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    read: set[int] = set()

    class Reading(TorchDispatchMode):
        def __torch_dispatch__(
            self, op: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            read.update(map(_place, tree_leaves((args, kwargs))))
            return op(*args, **(kwargs or {}))

    live = named_tensors(model)
    places = {name: _place(live[name]) for name in names}
    mode: Any = Reading()  # type: ignore[no-untyped-call]
    begins = model.register_forward_pre_hook(lambda *_: mode.__enter__() and None)
    ends = model.register_forward_hook(lambda *_: mode.__exit__(None, None, None), always_call=True)
    try:
        for given in inputs:
            ask(model, [given], continuations=False)
            if read.issuperset(places.values()):  # most often one input reads all
                break
    finally:
        begins.remove()
        ends.remove()
    return [name for name, place in places.items() if place not in read]


def _place(value: Any) -> int:
    """Return where a tensor's memory begins; a view of it has the same. One that is sparse: 0."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided:
        return 0
    return value.untyped_storage().data_ptr()


def _halves_change(
    model: nn.Module, names: Sequence[str], inputs: Sequence[Input], answers: Sequence[Raw]
) -> bool:
    """Whether halving these tensors, all at once, changes an answer."""
    live = named_tensors(model)
    before = {n: live[n].detach().clone() for n in names if live[n].is_floating_point()}
    try:
        for name, value in before.items():
            _write(live[name], value / 2)
        raws = ask(model, inputs, continuations=False)
    finally:
        for name, value in before.items():
            _write(live[name], value)
    return any(
        not now.answers[kind].equal(value)
        for now, then in zip(raws, answers, strict=True)
        for kind, value in then.answers.items()
    )


def _write(tensor: Tensor, value: Tensor) -> None:
    import torch

    with torch.no_grad():
        tensor.copy_(value)
