"""The values the base's own tensors had before training, for ``ftplug.disabled``."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug import structure
from ftplug.attaching.plan import Plan
from ftplug.attaching.sharding import reshard
from ftplug.base.fingerprint import fingerprint, sample
from ftplug.base.inspecting import Base
from ftplug.errors import MethodError, one_line
from ftplug.structure import named_tensors, persistent_buffers
from ftplug.structure.shards import is_partitioned, is_shard, replace_values, shard_as, whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def in_checkpoint(base: Base, names: Iterable[str]) -> frozenset[str]:
    """Return those of the base's parameters whose values can be read from its checkpoint again.

    A class outside transformers may not be built from its checkpoint alone.
    """
    rebuilt = _is_at_hand(base) and base.cls.__module__.startswith("transformers.")
    return frozenset(names).difference(base.fresh) if rebuilt else frozenset()


@dataclass(eq=False)
class OriginalValues:
    """What the base's checkpoint holds is read from there again when first asked for.

    Only what no checkpoint on this machine holds (a fresh head, a model built from a config,
    buffers) is kept, on the CPU: full fine-tuning of a loaded model costs no second copy.
    ``samples`` are a few values of each of the others, exactly, with their type: what is read again
    may have been rounded since.
    """

    base: Base
    kept: dict[str, Tensor]
    elsewhere: dict[str, str] = field(default_factory=dict)
    samples: dict[str, tuple[torch.dtype, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: nn.Module, base: Base, plan: Plan) -> OriginalValues:
        """Note the values of a prepared model before its first training step."""
        live: dict[str, Tensor] = dict(model.named_parameters())
        readable = in_checkpoint(base, plan.existing.values())
        elsewhere = {name: old for name, old in plan.existing.items() if old in readable}
        kept = {name: live[name] for name in plan.existing if name not in elsewhere}
        kept |= dict(persistent_buffers(model))
        copies = {
            name: whole(tensor) if is_partitioned(tensor) else tensor.detach().to("cpu", copy=True)
            for name, tensor in kept.items()
            if not tensor.is_meta
        }
        plain = {name: p for name in elsewhere if not is_shard(p := live[name]) and not p.is_meta}
        return cls(base, copies, elsewhere, {n: (p.dtype, sample(p)) for n, p in plain.items()})

    def exactly(self, model: nn.Module, lost: Collection[str]) -> dict[str, Tensor]:
        """Read what is kept nowhere else, to the last bit; return the ``lost`` ones of the base.

        ``lost`` are parameters, by the base's names, that are in the model no more. Raises
        :class:`MethodError` where the model started from values that its checkpoint does not give:
        :func:`ftplug.disabled` takes them rounded.
        """
        again = self._base_again(model) if self.elsewhere or lost else {}
        self._take(again)
        for name, (dtype, before) in self.samples.items():
            if not sample(self.kept[name].to(dtype)).equal(before):
                raise MethodError(
                    f"{name} began as other values than {self.base.id or 'the base checkpoint'} "
                    f"gives in {str(dtype).removeprefix('torch.')} (was it rounded, and cast back, "
                    "after it was loaded?): load the base again"
                )
        return {name: again[name] for name in lost}

    @contextmanager
    def put_back(self, model: nn.Module, *, but: Collection[str] = ()) -> Iterator[None]:
        """Give the tensors of ``model``, ``but`` those, their original values within the block."""
        import torch

        if self.elsewhere.keys() - set(but):
            self._complete(model)
        reshard(model)
        live: dict[str, Tensor] = named_tensors(model)
        with ExitStack() as trained:
            trained.callback(torch.clear_autocast_cache)  # it holds casts of what goes
            for name, value in self.kept.items():
                if name not in but:
                    trained.callback(replace_values(live[name], value))
            trained.callback(reshard, model)  # first: a forward may have left whole ones in place
            torch.clear_autocast_cache()
            yield

    def keep(self, model: nn.Module) -> None:
        """Keep the values, where they are, of a model that has not trained yet: read often."""
        live: dict[str, Tensor] = named_tensors(model)
        names = (*self.kept, *self.elsewhere)
        self.kept = {name: live[name].detach().clone() for name in names}
        self.elsewhere = {}

    def on_device_of(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the values, kept from now on where the tensors of ``model`` are: read often.

        Of what DeepSpeed ZeRO-3 partitions they are whole.
        """
        self._complete(model)
        reshard(model)
        live: dict[str, Tensor] = named_tensors(model)
        for name, value in self.kept.items():
            if is_partitioned(live[name]):
                self.kept[name] = whole(value).to(live[name].device)
            else:
                self.kept[name] = shard_as(value, live[name])
        return self.kept

    def _complete(self, model: nn.Module) -> None:
        """Read what is kept nowhere but in the base's checkpoint."""
        if self.elsewhere:
            self._take(self._base_again(model))

    def _take(self, again: Mapping[str, Tensor]) -> None:
        self.kept |= {name: again[old] for name, old in self.elsewhere.items()}
        self.elsewhere = {}

    def _base_again(self, model: nn.Module) -> dict[str, Tensor]:
        """Load the base again and check that it is what this model started from."""
        import torch

        inner = structure.pretrained(model)
        try:
            with torch.random.fork_rng():  # a fresh head is drawn: not from the user's generator
                again = self.base.cls.from_pretrained(
                    self.base.path,
                    revision=self.base.revision or "main",
                    config=copy.deepcopy(inner.config),
                    dtype=inner.dtype,
                    ignore_mismatched_sizes=True,
                )
        except (OSError, ValueError) as error:
            raise MethodError(f"cannot read the base again: {one_line(error)}") from error
        prefix = next(name for name, module in model.named_modules() if module is inner)
        prefix = f"{prefix}." if prefix else ""
        # Under ZeRO-3 transformers partitions this one too: detached, a part knows not of what.
        values = {
            f"{prefix}{name}": p if is_partitioned(p) else p.detach()
            for name, p in again.named_parameters()
        }
        base = {name: p for name, p in values.items() if name not in self.base.fresh}
        now, then = fingerprint(base), self.base.fingerprint
        if now is None or then is None or not now.matches(then):
            raise MethodError(
                f"{self.base.id or 'the base checkpoint'} gives weights {now}, but this "
                f"model started from {then}: its weights were changed before ftplug was attached,"
                " or it was loaded from another revision"
            )
        return values


def _is_at_hand(base: Base) -> bool:
    """Whether this machine has the checkpoint that a base was loaded from."""
    return base.path is not None and (base.revision is not None or Path(base.path).is_dir())
