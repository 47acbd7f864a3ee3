"""The hidden states that a frozen trunk gives: computed for each example once, and kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug_plugins.trunk_cache.check import check
from ftplug_plugins.trunk_cache.forward import (
    TRUNK,
    layers,
    outside,
    trunk_in_eval_mode,
    up_to_the_cut,
)
from ftplug_plugins.trunk_cache.rows import TOKENS, ImageRows, Rows, TokenRows
from ftplug_plugins.trunk_cache.store import TrunkStore
from ftplug_plugins.virtual.positions import is_packed, named

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_LOW = 0.25  # two epochs give 0.5
_MANY = 10_000  # examples after which a loop of unknown length is judged
_NO_INPUT = frozenset({"return_dict", "num_items_in_batch"})  # say nothing about hidden states


@dataclass(eq=False)
class Trunk:
    """The frozen part of a backbone: its input embeddings and the lowest ``depth`` layers.

    ``layers`` and ``embeddings`` are names within the backbone; no module is held, so that a
    deepcopy is a trunk of its own, with nothing stored yet.
    """

    method: str
    layers: str
    depth: int
    embeddings: str
    bias: str | None  # what in a layer computes T5's bias of the attention, by name
    relative: bool  # padding in front changes nothing
    causal: bool
    dtype: str | None
    limit: int
    on_disk: bool
    epochs: float | None = None  # of the run, where that is known
    steps: int = 0  # optimizer steps taken here
    hits: int = 0  # examples read while training, and found
    misses: int = 0
    judged: bool = False
    trained: bool = False  # an artifact that only answers stores nothing
    checked: bool = False
    store: TrunkStore | None = field(default=None, repr=False)
    computed_in: dict[str, torch.dtype] = field(default_factory=dict)  # by what autocast is set to
    weights: tuple[Any, ...] = field(default=(), repr=False)
    running: threading.local = field(default_factory=threading.local, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Trunk:
        _, cut = self.__reduce__()
        return Trunk(*cut)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        cut = (self.method, self.layers, self.depth, self.embeddings, self.bias, self.relative)
        return Trunk, (*cut, self.causal, self.dtype, self.limit, self.on_disk, self.epochs)

    def ask(self, backbone: Any, forward: Any, rows: Rows) -> Tensor:
        """Return (batch, length, width) at the cut, zero at padding; what is unknown is computed.

        What an example gets does not depend on whether it was known.
        """
        import torch

        self._forget_other_weights(backbone)
        slots: dict[bytes, Tensor] = {}
        for key in rows.keys if self.store else ():
            if (found := self.store.find(key)) is not None:  # type: ignore[union-attr]
                slots[key] = found
        wanted = {key: row for row, key in enumerate(rows.keys) if key not in slots}
        if backbone.training:
            self.misses += len(wanted)
            self.hits += len(rows.keys) - len(wanted)
            if self.epochs is None and self.hits + self.misses >= _MANY:
                self.warn_if_useless()
        new = self._compute(backbone, forward, rows, list(wanted.values()))
        assert self.store is not None
        tokens = next((len(found) for found in (*slots.values(), *new.values())), 0)
        index = torch.zeros(len(rows.keys), rows.length(tokens), dtype=torch.long)
        for row, key in enumerate(rows.keys):
            if key in slots:
                index[row, rows.span(row)] = slots[key]
        states = self.store.read(index).to(rows.device, self.computed_in[rows.tag])
        for row, key in enumerate(rows.keys):
            if key in new:
                states[row, rows.span(row)] = new[key]
        for key, value in new.items():  # last: it may push out what this batch has read
            self.store.put(key, value)
        return states

    def _compute(
        self, backbone: Any, forward: Any, rows: Rows, wanted: Sequence[int]
    ) -> dict[bytes, Tensor]:
        """Run some rows up to the cut; return (tokens, width) by key, rounded as it is stored."""
        import torch

        found: dict[bytes, Tensor] = {}
        for numbers, batch in rows.batches(wanted):
            output = up_to_the_cut(backbone, self, forward, batch)
            self.computed_in[rows.tag] = output.dtype
            if self.store is None:
                dtype = getattr(torch, self.dtype) if self.dtype else output.dtype
                width = output.shape[-1]
                self.store = TrunkStore(width, dtype, self.limit, on_disk=self.on_disk)
            output = output.to(self.store.dtype).to(output.dtype)
            for states, row in zip(output, numbers, strict=True):
                span = rows.span(row)
                count = len(states) if span.stop is None else int(span.stop - span.start)
                found[rows.keys[row]] = states[:count]
        return found

    def warn_if_useless(self) -> None:
        """Say once where hardly any example was read a second time."""
        seen = self.hits + self.misses
        if not self.judged and seen and self.hits < _LOW * seen:
            logger.warning(
                "%s: cache=True: of %d examples only %.1f%% were known, %d were pushed out: with "
                "random augmentation, less than two epochs or small cache_bytes it only costs time",
                *(self.method, seen, 100 * self.hits / seen),
                self.store.evicted if self.store else 0,
            )
        self.judged = True

    def _forget_other_weights(self, backbone: Any) -> None:
        """Start anew where somebody changed the trunk's weights, or moved them.

        Looking takes 17 µs for a layer of BERT; running that takes 500 µs, however small it is.
        """
        modules, left = [*outside(backbone, self)], layers(backbone, self)
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
            self.weights, self.store = now, None


def around_backbone(backbone: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Run a pass above the trunk alone, if the call reads whole examples and nothing else."""
    import torch

    trunk: Trunk = backbone.__dict__[TRUNK]
    given = named(forward, args, kwargs)
    trunk.trained = trunk.trained or backbone.training
    rows = _rows(backbone, trunk, given) if trunk.trained else None
    if rows is None:
        with trunk_in_eval_mode(backbone, trunk):
            return forward(*args, **kwargs)
    if trunk.causal:
        given["use_cache"] = False
    states = trunk.ask(backbone, forward, rows)
    if not trunk.checked:
        check(backbone, trunk, forward, given, states, rows)
        trunk.checked = True
    if getattr(layers(backbone, trunk)[0], "gradient_checkpointing", False):
        states.requires_grad_(backbone.training and torch.is_grad_enabled())  # or it has no graph
    with trunk_in_eval_mode(backbone, trunk, states):
        return forward(**given)


def _rows(backbone: Any, trunk: Trunk, given: Mapping[str, Any]) -> Rows | None:
    """Return the examples of a call, or None for one that asks for more than hidden states."""
    import torch

    config = backbone.config
    used = {
        name: value
        for name, value in given.items()
        if value is not None and value is not False and name not in _NO_INPUT
    }
    asks = [f"output_{what}" for what in ("hidden_states", "attentions")]
    if any(given.get(name, getattr(config, name, False)) for name in asks):
        return None
    # A training step leaves no keys and values that anybody goes on from.
    fills = trunk.causal and given.get("use_cache") is None and getattr(config, "use_cache", False)
    if (fills and not backbone.training) or getattr(backbone, "_is_replica", False):
        return None  # a replica of DataParallel is gone after one batch
    if not all(isinstance(value, torch.Tensor) for value in used.values()):
        return None
    if is_packed(used):
        return None  # what a row attends to is not in its tokens alone
    tag = _computed_in(backbone)
    if used.keys() == {"pixel_values"}:
        return ImageRows(used, tag)
    if "input_ids" in used and used.keys() <= TOKENS and all(v.ndim == 2 for v in used.values()):
        return TokenRows(used, config, tag, relative=trunk.relative)
    return None


def _computed_in(backbone: nn.Module) -> str:
    """Name the precision of this pass: autocast gives other hidden states."""
    import torch

    parameter = next(backbone.parameters())
    kind = parameter.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return f"{parameter.dtype} {dtype}"
