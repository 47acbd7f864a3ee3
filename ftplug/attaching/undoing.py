"""What attaching changed on a model, kept with it so that it can be taken off again.

What others changed since (a device, hooks, attributes of their own) stays. Where they changed the
very thing that a method had changed, that is said before anything is taken off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from ftplug.attaching.lost import Lost, Shells, put_again
from ftplug.inplace import unwrapped_classes
from ftplug.structure import named_parameters

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ftplug.attaching.rollback import Snapshot

UNDO = "_ftplug_undo"  # of a model: what takes its methods off; a deepcopy has its own
_PARTS = ("_modules", "_parameters")


class _Absent(Enum):
    """Stands for an attribute that was not there; a deepcopy keeps it."""

    ABSENT = "absent"


_ABSENT = _Absent.ABSENT


@dataclass(eq=False)
class _Change:
    """An attribute of a module or config before and after.

    Of a dict only the entries that differ, and in ``order`` the keys from before: all others may
    be exchanged meanwhile (FSDP does so with parameters), and their memory is not held on to.
    """

    holder: Any
    name: str
    before: Any
    after: Any
    order: tuple[Any, ...] | None = None

    def disputed(self) -> str | None:
        """Return the name of a part that is neither what attaching left nor what was there."""
        if self.name not in _PARTS or self.order is None:
            return None
        now = vars(self.holder)[self.name]
        for key in {**self.before, **self.after}:
            if not any(now.get(key) is state.get(key) for state in (self.after, self.before)):
                return str(key)
        return None

    def take_back(self) -> None:
        """Give the attribute its value, or its content, from before."""
        own = vars(self.holder)
        now = own.get(self.name)
        if self.order is not None and isinstance(now, dict):
            _refill(now, self.order, self.before, self.after)
        elif isinstance(self.before, set) and isinstance(now, set):
            now.difference_update(self.after - self.before)
            now.update(self.before - self.after)
        elif self.before is _ABSENT:
            own.pop(self.name, None)
        else:
            own[self.name] = self.before


def _refill(
    now: dict[Any, Any], order: tuple[Any, ...], before: Mapping[Any, Any], after: Mapping[Any, Any]
) -> None:
    """Give a dict its entries and its order back; what came since is last."""
    current = {key: value for key, value in now.items() if key in before or key not in after}
    now.clear()  # the same container: handles of hooks hold on to it
    for key in order:
        if key in before:
            now[key] = _placed_as(before[key], current.get(key))
        elif key in current:
            now[key] = current[key]
    now.update({key: value for key, value in current.items() if key not in now})


def _placed_as(value: Any, now: Any) -> Any:
    """Return a buffer that had left the model on the device of what stood in its place."""
    import torch

    plain = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    return value.to(now.device) if plain and isinstance(now, torch.Tensor) else value


@dataclass(eq=False)
class Undo:
    """What takes the methods of a model off again.

    ``names`` are the base's own parameters, without what was ``lost``, each with the name that it
    has now; ``named`` are the names of all attributes that the model itself had. A deepcopy of the
    model has a copy of this.
    """

    names: dict[str, str]
    lost: dict[str, Lost]
    device: torch.device | None
    named: frozenset[str]
    classes: list[tuple[Any, type, type]] = field(default_factory=list)
    changes: list[_Change] = field(default_factory=list)
    shells: list[Any] = field(default_factory=list)
    modes: dict[bool, list[Any]] = field(default_factory=dict)

    @classmethod
    def since(cls, before: Snapshot, model: nn.Module, *, keep: frozenset[str]) -> Undo:
        """Compare a model that methods were put on with what it was.

        ``keep`` names the parameters that no checkpoint holds: of them a value that leaves the
        model is kept.
        """
        live = {id(p): name for name, p in named_parameters(model).items()}
        own = {n: live[id(p)] for n, p in before.parameters.items() if id(p) in live}
        gone = {n: p for n, p in before.parameters.items() if id(p) not in live}
        lost = {n: Lost.of(n, p, keep=n in keep) for n, p in gone.items()}
        first = next((before.parameters[name].device for name in own), None)
        undo = cls(own, lost, first, frozenset(before.objects[0][2]))
        shells = Shells([(gone[name], known) for name, known in lost.items()], model)
        for one, kind, attributes in before.objects:
            holder = shells.of(one)
            if type(one) is not kind:
                undo.classes.append((holder, kind, type(one)))
            if "training" in attributes:
                undo.modes.setdefault(attributes["training"][0], []).append(holder)
            undo.changes += _changes(one, holder, attributes, shells)
        undo.shells = shells.made()
        return undo

    def dispute(self, model: nn.Module) -> str | None:
        """Say what somebody changed since where a method had; None where all can be taken off."""
        names = {id(module): name for name, module in model.named_modules()}
        for holder, before, after in self.classes:
            where = names.get(id(holder)) or type(model).__name__
            if not {before, after} & set(unwrapped_classes(holder)):
                return f"{where} is of another class, {type(holder).__name__}"
            own = vars(holder)
            if "forward" in own and "_original_forward" not in own:
                return f"{where} runs another forward"
        for change in self.changes:
            if key := change.disputed():
                where = names.get(id(change.holder), "")
                return f"{where}.{key}".lstrip(".") + " was replaced"
        live = dict(model.named_parameters())
        missing = (name for name in self.names.values() if name not in live)
        return next((f"{name} was removed" for name in missing), None)

    def parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Return the base's own parameters, by name, of a model that carries the methods."""
        live = dict(model.named_parameters())
        return {name: live[now] for name, now in self.names.items()}

    def take_back(self, model: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Put the model's own modules, classes and attributes in their places.

        ``values`` are those of what was lost, by name.
        """
        first = next((p.device for p in self.parameters(model).values()), None)
        moved = first if first != self.device else None
        found = {n: one.again(values[n], moved or one.device) for n, one in self.lost.items()}
        for shell in self.shells:
            put_again(shell._parameters, found)
            for name, buffer in shell._buffers.items():
                if buffer is not None and moved is not None:
                    shell._buffers[name] = buffer.to(moved)
        for holder, before, _ in self.classes:
            holder.__class__ = before
        for change in self.changes:
            if change.name == "_parameters":
                put_again(change.before, found)
            change.take_back()
        for training, modules in self.modes.items():
            for module in modules:
                module.training = training


def _changes(one: Any, holder: Any, attributes: Any, shells: Shells) -> Iterator[_Change]:
    """Yield what is other in an object than its attributes from before say."""
    for name in dict.fromkeys([*attributes, *vars(one)]):
        value, content = attributes.get(name, (_ABSENT, None))
        now = vars(one).get(name, _ABSENT)
        if name == "training":
            continue
        if isinstance(content, dict) and isinstance(now, dict):
            was, became = _differing(content, now), _differing(now, content)
            if was or became or list(content) != list(now):
                kept = {key: shells.of(value) for key, value in was.items()}
                yield _Change(holder, name, kept, became, tuple(content))
        elif isinstance(content, set) and isinstance(now, set):
            if content != now:
                yield _Change(holder, name, content, now.copy())
        elif value is not now:
            yield _Change(holder, name, shells.of(value), now)


def _differing(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return the entries of one dict that the other has not, or has another for."""
    return {k: v for k, v in one.items() if k not in other or other[k] is not v}
