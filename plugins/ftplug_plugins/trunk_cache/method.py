"""The trunk cache: frozen lower layers run once per example, not once per epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from ftplug import Method, MethodError, hookimpl
from ftplug.method import Kind
from ftplug_plugins.trunk_cache.check import refuse_trainer
from ftplug_plugins.trunk_cache.cut import NAME, cuts
from ftplug_plugins.trunk_cache.trunk import Trunk, put_on, take_off

if TYPE_CHECKING:
    from torch import nn

    from ftplug.context import RunView

_TRUNKS = "_ftplug_trunks"  # on the model, for its steps


@dataclass(frozen=True, eq=False)
class TrunkCache(Method):
    """Keep what the frozen lower layers give, and run them once per example.

    It stands beside the methods that train: ``freeze``, or any method on the top layers alone. The
    trunk is what lies below the lowest layer that any of them trains or changes. It runs in eval
    mode (no dropout), without gradient. What it gives is kept under a hash of each example's
    content, so that shuffling and padding do not matter; at padding stands zero. It is used in
    training, and in evaluation once the model has trained (not where a causal model fills a
    key-value cache); never saved, and empty again in a copy, in another process and after resuming,
    unless the environment variable FTPLUG_SHARED_CACHE names a folder for all runs on this trunk.

    Losses equal those of a trunk in eval mode to rounding (1e-6 in float32), not to the last bit:
    examples run in other shapes here. Labels that stand on padding (a copy of the ids, with no
    -100) would count zeros. A change of the frozen weights is seen, unless it is made through
    ``.data``. On the CPU what is kept depended on the example alone, to the last bit, for every
    architecture and batch measured, so that resuming stays exact; on a GPU nothing was.

    A run may be resumed without it, or with it from then on: to rounding what it would have been
    where the trunk has no dropout anyway (for ViT and T5 to the last bit), else with the dropout
    that the rest of the run has.
    """

    dtype: Annotated[
        Literal["float32", "bfloat16"] | None, "What is kept is rounded to this; None: as computed."
    ] = None
    bytes: Annotated[
        int | None,
        Ge(1),
        "Most bytes kept, in each process; the least recently used go first. None: 2 GiB.",
    ] = None
    on_disk: Annotated[bool, "Keep it in a memory-mapped file below TMPDIR, not in memory."] = False

    name: ClassVar[str] = NAME
    kind: ClassVar[Kind] = "execution"
    transient: ClassVar[bool] = True
    relies_on_internals: ClassVar[bool] = True

    def sharding_refusal(self) -> str:
        """Under FSDP all processes must run a layer, or none."""
        return "some processes skip layers that others run"

    @hookimpl(trylast=True)  # it sees what all the others did
    def finish_model(self, model: nn.Module, may_train: frozenset[str], run: RunView) -> None:
        """Cut the model below the lowest layer that a method trains or changes.

        What an earlier Trainer's cache holds of the same trunk stays.
        """
        refuse_trainer(run.args)
        earlier = take_off(model)
        try:
            specs = list(cuts(model, may_train, run.added))
        except MethodError:
            for backbone, trunk in earlier:
                put_on(backbone, trunk)
            raise
        trunks = []
        for backbone, spec in specs:
            limit = self.bytes or spec.limit
            kept = replace(spec, dtype=self.dtype, limit=limit, on_disk=self.on_disk)
            trunk = Trunk(kept, _epochs(run.args))
            for other, known in earlier:
                if other is backbone and known.spec == trunk.spec:
                    trunk.take_over(known)
            put_on(backbone, trunk)
            trunks.append(trunk)
        model.__dict__[_TRUNKS] = trunks

    @hookimpl
    def on_step(self, model: nn.Module, step: int, total_steps: int) -> None:
        """Say so where examples are hardly ever seen again, once; say at the end what was saved."""
        for trunk in model.__dict__.get(_TRUNKS, ()):
            trunk.steps += 1
            second = -(-2 * total_steps // trunk.epochs) if trunk.epochs else None
            last = step == total_steps == trunk.steps and (second is None or step < second)
            if trunk.steps == second or last:
                trunk.warn_if_useless()
            if step == total_steps:
                trunk.say()

    @hookimpl
    def merge_model(self, model: nn.Module) -> None:
        """Take it off; what was kept goes."""
        take_off(model)
        model.__dict__.pop(_TRUNKS, None)


def _epochs(args: Any) -> float | None:
    return float(args.num_train_epochs) if args is not None and args.max_steps <= 0 else None
