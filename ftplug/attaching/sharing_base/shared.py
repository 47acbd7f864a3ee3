"""Which tensors models share, and what gives a model memory of its own before it is written.

Each model that was loaded with ``share_base=True`` has a note of what it shares. A deepcopy and a
pickle share nothing, and have none.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

from ftplug.attaching.holders import alive
from ftplug.attaching.sharing_base.memory import note_memory, others_at, where
from ftplug.attaching.sharing_base.writes import no_writes
from ftplug.base.fingerprint import SAMPLE, sample
from ftplug.structure import named_parameters, named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

ATTRIBUTE = "_ftplug_shared"  # of a model: what it shares

_sharing: WeakSet[nn.Module] = WeakSet()
_bases: WeakKeyDictionary[nn.Module, dict[int, Callable[[], Any]]] = WeakKeyDictionary()


@dataclass(eq=False, slots=True)
class Noted:
    """One shared tensor as it was noted: where it lay, and how often it had been written to."""

    own: Callable[[], Any]  # weak references: to the model's parameter, and to the base's
    base: Callable[[], Any]
    place: int
    writes: int | None
    base_writes: int | None
    written: tuple[tuple[Callable[[], Any], int | None], ...] = ()  # others', where there were any
    told: bool = False  # that the base has moved

    @classmethod
    def of(cls, parameter: Tensor, base: Callable[[], Any]) -> Noted:
        """Note a parameter and the one of the base in whose memory it lies."""
        given = base()
        base_writes = None if given is None else _writes(given)
        own = weakref.ref(parameter)
        writes = [(one, _writes(one())) for one in _beside(parameter, base)]
        written = tuple((one, count) for one, count in writes if count)
        return cls(own, base, where(parameter), _writes(parameter), base_writes, written)

    def is_moved(self) -> bool:
        """Whether the model no longer holds it where it was noted."""
        own = self.own()
        return own is None or where(own) != self.place

    def base_has_moved(self) -> bool:
        """Whether the base has gone elsewhere."""
        base = self.base()
        return base is not None and where(base) != self.place

    def is_written(self) -> bool:
        """Whether somebody has written to it, by this parameter or by the base's."""
        own, base = self.own(), self.base()
        by_the_base = base is not None and where(base) == self.place
        return _writes(own) != self.writes or (by_the_base and _writes(base) != self.base_writes)

    def is_written_elsewhere(self) -> bool:
        """Whether somebody has written to it by the parameter of another model on the base."""
        before = {id(one): count for one, count in self.written}
        beside = _beside(self.own(), self.base)
        return any((_writes(one()) or 0) != (before.get(id(one)) or 0) for one in beside)


@dataclass(eq=False)
class Shared:
    """What one model shares: ``bases`` are the base's parameters by where their memory is.

    ``tensors`` go by the names that they had when they were noted. ``samples`` has some values of
    them, SAMPLE of each at most: what is written by way of ``.data`` is not counted.
    """

    bases: dict[int, Callable[[], Any]] = field(default_factory=dict)
    tensors: dict[str, Noted] = field(default_factory=dict)
    samples: tuple[tuple[str, ...], Tensor] | None = None

    def __reduce__(self) -> tuple[type[Shared], tuple[()]]:
        return Shared, ()

    def note(self, live: Mapping[str, Tensor]) -> None:
        """Note which of a model's tensors lie in the base's memory, and what they are."""
        import torch

        self.tensors = {
            name: Noted.of(tensor, self.bases[place])
            for name, tensor in live.items()
            if (place := where(tensor)) in self.bases
        }
        floating = tuple(name for name in self.tensors if live[name].is_floating_point())
        if floating:  # one tensor: a hundred small ones take more than their values
            values = torch.stack([_sampled(live[name]) for name in floating])
            self.samples = _held_once(floating, values)

    def written(self, *, thorough: bool) -> Tensor | None:
        """Return the first tensor that somebody has written to, when what has moved was left.

        A ``thorough`` look asks the other models on the base too, and takes the samples again.
        """
        noted = self.tensors.values()
        found = next((one.own() for one in noted if one.is_written()), None)
        if found is not None or not thorough:
            return found
        elsewhere = (one.own() for one in noted if one.is_written_elsewhere())
        return next(elsewhere, self._of_other_values())

    def _of_other_values(self) -> Tensor | None:
        import torch

        for name, before in zip(*self.samples or ((), ()), strict=True):
            noted = self.tensors.get(name)
            if noted and not torch.equal(_sampled(noted.own()), before):
                return noted.own()  # type: ignore[no-any-return]
        return None

    def leave(self, left: Collection[Noted]) -> None:
        """Forget tensors that the model no longer shares."""
        self.tensors = {name: noted for name, noted in self.tensors.items() if noted not in left}


def note_copy(copied: nn.Module, base: nn.Module) -> None:
    """Note that a copy's parameters lie in the memory of its base's."""
    copied.__dict__[ATTRIBUTE] = Shared(_bases_of(base))
    _note(copied)
    _sharing.add(copied)
    note_memory(base, copied)


def _bases_of(base: nn.Module) -> dict[int, Callable[[], Any]]:
    """Return a base's parameters by where they are: the same dict for all models on it."""
    now: dict[int, Any] = {where(p): weakref.ref(p) for p in base.parameters()}
    known = _bases.get(base, {})
    if known.keys() != now.keys() or any(known[place] is not now[place] for place in now):
        _bases[base] = known = now
    return known


def _held_once(names: tuple[str, ...], values: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Return samples as another model on the same base has them, or these."""
    import torch

    for other in alive(_sharing):
        shared = shared_by(other)
        known = shared.samples if shared else None
        if known and known[0] == names and torch.equal(known[1], values):
            return known
    return names, values


def _note(model: nn.Module) -> None:
    """Note what a model shares now; what shares nothing any more has no note."""
    shared: Shared | None = model.__dict__.get(ATTRIBUTE)
    if shared is None:
        return
    shared.note(named_parameters(model))
    if not shared.tensors:
        del model.__dict__[ATTRIBUTE]
        _sharing.discard(model)


def shared_by(model: nn.Module) -> Shared | None:
    """Return what a model shares that was loaded with ``share_base=True``."""
    found: Shared | None = model.__dict__.get(ATTRIBUTE)
    return found if found and found.tensors else None


def shared_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return those parameters of any model, a base's too, in which others would see a write."""
    return {name: p for name, p in model.named_parameters() if others_at(p)}


@contextmanager
def kept_apart(model: nn.Module) -> Iterator[None]:
    """Give a model memory of its own for all that it shares; where the block fails, it has it not.

    What the block writes is then no other model's.
    """
    before = [(p, p.data) for p in shared_parameters(model).values()]
    for parameter, value in before:
        parameter.data = value.clone()
    try:
        yield
    except BaseException:
        for parameter, value in before:
            parameter.data = value
        raise
    _note(model)


@contextmanager
def copied_on_write(
    model: nn.Module, methods: str, *, loading: bool
) -> Iterator[Callable[[Collection[str]], None]]:
    """Let methods be put on a model within the block, without a write to what it shares.

    Where an artifact's values follow (``loading``) no method has anything to write into the base,
    and one that does is refused; else the base is copied meanwhile. Call what this gives with the
    names of the tensors that will be written from now on: they get memory of their own, and what
    came back as it was is shared again.
    """
    before = [(p, p.data) for p in shared_parameters(model).values()]
    names = {where(value): name for name, value in shared_parameters(model).items()}

    def settle(saved: Collection[str]) -> None:
        live = named_tensors(model)
        written = [live[name] for name in saved]
        _share_again(before, {id(tensor) for tensor in written})
        for tensor in written:
            if where(tensor) in names:
                tensor.data = tensor.data.clone()
        _note(model)

    if not before:
        yield lambda saved: _note(model)
        return
    with no_writes(names, methods) if loading else kept_apart(model):
        yield settle


def _share_again(before: list[tuple[nn.Parameter, Tensor]], but: set[int]) -> None:
    """Let parameters lie where they did, whose values a method has replaced by equal ones."""
    import torch

    for parameter, value in before:
        same_kind = (parameter.dtype, parameter.device) == (value.dtype, value.device)
        if id(parameter) in but or where(parameter) == where(value) or not same_kind:
            continue
        if torch.equal(parameter.data, value):
            parameter.data = value


def own_before_writing(model: nn.Module, names: Collection[str]) -> None:
    """Give a model memory of its own for these tensors, as far as it shares them."""
    if (shared := shared_by(model)) is None:
        return
    written = [p for name, p in shared_parameters(model).items() if name in names]
    for parameter in written:
        parameter.data = parameter.data.clone()
    own = {id(parameter) for parameter in written}
    shared.leave([noted for noted in shared.tensors.values() if id(noted.own()) in own])


def _beside(tensor: Tensor, base: Callable[[], Any]) -> list[Callable[[], Any]]:
    """Return the parameters in the same memory that are neither this model's nor its base's."""
    found = (one.parameter for one in others_at(tensor) if one.parameter is not base)
    return [reference for reference in found if reference() is not None]


def _writes(tensor: Tensor) -> int | None:
    """Return how often a tensor was written to; made in inference mode, it does not count."""
    return None if tensor.is_inference() else tensor._version


def _sampled(tensor: Tensor) -> Tensor:
    """Return some values of a tensor bit by bit, as (SAMPLE,) numbers: NaN is NaN."""
    import torch

    values = sample(tensor)
    padded = torch.nn.functional.pad(values, (0, SAMPLE - len(values)))
    return padded.view(torch.int32)
