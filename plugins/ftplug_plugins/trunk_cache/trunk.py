"""The hidden states that a frozen trunk gives: computed for each example once, and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug_plugins.trunk_cache.check import check
from ftplug_plugins.trunk_cache.cut import NAME, TrunkSpec
from ftplug_plugins.trunk_cache.forward import (
    layers,
    outside,
    remove_cache,
    trunk_in_eval_mode,
    up_to_the_cut,
    wrap,
)
from ftplug_plugins.trunk_cache.rows import Rows, rows_of
from ftplug_plugins.trunk_cache.shared import SharedStates, shared_states
from ftplug_plugins.trunk_cache.store import TrunkStore
from ftplug_plugins.virtual.positions import named

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

TRUNK = "_ftplug_trunk"  # on the backbone
_LOW = 0.25  # two epochs give 0.5
_MANY = 10_000  # examples after which a loop of unknown length is judged


@dataclass(eq=False)
class Trunk:
    """A trunk and what is stored of it; a copy of the model has one with nothing stored yet."""

    spec: TrunkSpec
    epochs: float | None = None  # of the run, where that is known
    steps: int = 0  # optimizer steps taken here
    hits: int = 0  # examples read while training, and found
    misses: int = 0
    judged: bool = False
    trained: bool = False  # an artifact that only answers stores nothing
    checked: bool = False
    store: TrunkStore | None = field(default=None, repr=False)
    shared: dict[str, SharedStates | None] = field(default_factory=dict, repr=False)  # as below
    stored_in: torch.dtype | None = None
    computed: int = 0  # examples that the trunk ran for
    read: int = 0  # and those that were known,
    read_shared: int = 0  # of them from a folder that is shared
    computed_in: dict[str, torch.dtype] = field(default_factory=dict)  # by what autocast is set to
    weights: tuple[Any, ...] = field(default=(), repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Trunk:
        return Trunk(self.spec, self.epochs)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Trunk, (self.spec, self.epochs)

    def take_over(self, earlier: Trunk) -> None:
        """Go on with what an earlier run stored of the same trunk."""
        self.trained, self.checked, self.store = earlier.trained, earlier.checked, earlier.store
        self.computed_in, self.weights = earlier.computed_in, earlier.weights
        self.shared, self.stored_in = earlier.shared, earlier.stored_in

    def ask(self, backbone: Any, forward: Any, rows: Rows) -> Tensor:
        """Return (batch, length, width) at the cut, zero at padding; what is unknown is computed.

        What an example gets does not depend on whether it was known.
        """
        self._forget_other_weights(backbone)
        shared = self._shared_by(backbone, rows.tag)
        wanted = self._unknown(rows, shared)
        if shared is None or not wanted:
            new, published = self._compute(backbone, forward, rows, list(wanted.values())), False
        else:
            with shared.filling(wanted) as held:
                wanted = self._unknown(rows, shared)
                new = self._compute(backbone, forward, rows, list(wanted.values()))
                published = bool(new) and self._publish(shared, new, rows.tag, locked=held)
        if shared is not None and (found := shared.types) is not None:
            self.computed_in[rows.tag], self.stored_in = found
        self._count(len(rows.keys), len(wanted), training=backbone.training)
        states = self._gather(rows, shared, new)
        for key, value in () if published else new.items():  # last: it may push out what is read
            self._kept().put(key, value)
        return states

    def _publish(
        self, shared: SharedStates, new: Mapping[bytes, Tensor], tag: str, *, locked: bool
    ) -> bool:
        shared.count(len(new))
        if not locked:
            return False
        stored = {key: value.to("cpu", self.stored_in) for key, value in new.items()}
        return shared.publish(stored, self.computed_in[tag])

    def _unknown(self, rows: Rows, shared: SharedStates | None) -> dict[bytes, int]:
        """Return a row for each example that is neither stored nor shared."""
        return {
            key: row
            for row, key in enumerate(rows.keys)
            if (shared is None or shared.find(key) is None)
            and (self.store is None or self.store.find(key) is None)
        }

    def _gather(
        self, rows: Rows, shared: SharedStates | None, new: Mapping[bytes, Tensor]
    ) -> Tensor:
        """Return (batch, length, width) of what is stored, shared and new."""
        import torch

        slots: dict[bytes, Tensor] = {}
        mapped: dict[bytes, Tensor] = {}
        for key in rows.keys:
            if key in new:
                continue
            if shared is not None and (found := shared.find(key)) is not None:
                mapped[key] = found
            elif self.store is not None and (stored := self.store.find(key)) is not None:
                slots[key] = stored
        known = next(iter([*new.values(), *mapped.values(), *slots.values()]))
        index = torch.zeros(len(rows.keys), rows.length(len(known)), dtype=torch.long)
        for row, key in enumerate(rows.keys):
            if key in slots:
                index[row, rows.span(row)] = slots[key]
        if slots:
            states = self._kept().read(index)
        else:
            states = torch.zeros(*index.shape, known.shape[-1], dtype=self.stored_in)
        for row, key in enumerate(rows.keys):
            if key in mapped:
                states[row, rows.span(row)] = mapped[key]
                self.read_shared += 1
        states = states.to(rows.device, self.computed_in[rows.tag])
        for row, key in enumerate(rows.keys):
            if key in new:
                states[row, rows.span(row)] = new[key]
        return states

    def _kept(self) -> TrunkStore:
        assert self.store is not None  # something was computed
        return self.store

    def _count(self, examples: int, unknown: int, *, training: bool) -> None:
        self.read += examples - unknown
        if training:
            self.misses += unknown
            self.hits += examples - unknown
            if self.epochs is None and self.hits + self.misses >= _MANY:
                self.warn_if_useless()

    def _shared_by(self, backbone: Any, tag: str) -> SharedStates | None:
        """Return what is shared in this precision, or None; looked for at its first batch."""
        if tag not in self.shared:
            rounded_to = self.spec.dtype or self.stored_in or "as computed"
            self.shared[tag] = shared_states(backbone, self.spec, tag, str(rounded_to))
        return self.shared[tag]

    def _compute(
        self, backbone: Any, forward: Any, rows: Rows, wanted: Sequence[int]
    ) -> dict[bytes, Tensor]:
        """Run some rows up to the cut; return (tokens, width) by key, rounded as it is stored."""

        computed: dict[bytes, Tensor] = {}
        for numbers, batch in rows.batches(wanted):
            output = up_to_the_cut(backbone, self.spec, forward, batch)
            self.computed_in[rows.tag] = output.dtype
            if self.store is None:
                self.store = self._new_store(output)
                self.stored_in = self.store.dtype
            output = output.to(self.store.dtype).to(output.dtype)
            for states, row in zip(output, numbers, strict=True):
                span = rows.span(row)
                count = len(states) if span.stop is None else int(span.stop - span.start)
                computed[rows.keys[row]] = states[:count]
        self.computed += len(computed)
        return computed

    def _new_store(self, output: Tensor) -> TrunkStore:
        import torch

        spec = self.spec
        dtype = getattr(torch, spec.dtype) if spec.dtype else self.stored_in or output.dtype
        return TrunkStore(output.shape[-1], dtype, spec.limit, on_disk=spec.on_disk)

    def warn_if_useless(self) -> None:
        """Say once where hardly any example was read a second time."""
        seen = self.hits + self.misses
        if not self.judged and seen and self.hits < _LOW * seen:
            logger.warning(
                "%s: of %d examples only %.1f%% were known, %d were pushed out: with random "
                "augmentation, less than two epochs or a small bytes it only costs time",
                *(NAME, seen, 100 * self.hits / seen),
                self.store.evicted if self.store else 0,
            )
        self.judged = True

    def say(self) -> None:
        """Log how often the trunk ran, and how often it did not have to."""
        logger.info(
            "%s: the trunk ran for %d examples; %d were read, %d of them from what is shared",
            *(NAME, self.computed, self.read, self.read_shared),
        )

    def _forget_other_weights(self, backbone: Any) -> None:
        """Start anew where somebody changed the trunk's weights, or moved them.

        Looking takes 17 µs for a layer of BERT; running that takes 500 µs, however small it is.
        """
        modules, left = [*outside(backbone, self.spec)], layers(backbone, self.spec)
        while left:  # not through modules(), which takes twice as long
            modules.append(module := left.pop())
            left += (child for child in module._modules.values() if child is not None)
        parameters = (p for m in modules for p in m._parameters.values() if p is not None)
        now = tuple(
            (p.data_ptr(), 0 if p.is_inference() else p._version)
            for p in parameters
            if not p.requires_grad
        )
        if now != self.weights:
            self.weights, self.store, self.stored_in, self.shared = now, None, None, {}


def put_on(backbone: nn.Module, trunk: Trunk) -> None:
    """Let a backbone ask its trunk for what is stored."""
    backbone.__dict__[TRUNK] = trunk
    wrap(backbone, trunk.spec, _around_backbone)


def take_off(model: nn.Module) -> list[tuple[nn.Module, Trunk]]:
    """Undo that for the whole model; return the backbones with the trunks they had."""
    backbones = [module for module in model.modules() if TRUNK in module.__dict__]
    remove_cache(model)
    return [(backbone, backbone.__dict__.pop(TRUNK)) for backbone in backbones]


def _around_backbone(backbone: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a pass above the trunk alone, if the call reads whole examples and nothing else."""
    import torch

    trunk: Trunk = backbone.__dict__[TRUNK]
    spec, given = trunk.spec, named(forward, args, kwargs)
    trunk.trained = trunk.trained or backbone.training
    rows = rows_of(backbone, spec, given) if trunk.trained else None
    if rows is None:
        with trunk_in_eval_mode(backbone, spec):
            return forward(*args, **kwargs)
    if spec.causal:
        given["use_cache"] = False
    states = trunk.ask(backbone, forward, rows)
    if not trunk.checked:
        check(backbone, spec, forward, given, states, rows)
        trunk.checked = True
    if getattr(layers(backbone, spec)[0], "gradient_checkpointing", False):
        states.requires_grad_(backbone.training and torch.is_grad_enabled())  # or it has no graph
    with trunk_in_eval_mode(backbone, spec, states):
        return forward(**given)
