"""The plan of a run: the tensors that may train, those that train now, and those that are saved.

The host alone sets ``requires_grad``: whatever a method's library does to it is overwritten here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.attaching.sharding import reshard
from ftplug.errors import MethodError
from ftplug.structure import named_tensors, persistent_buffers
from ftplug.structure.shards import is_partitioned, numel_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.base.inspecting import Base
    from ftplug.host import Host


@dataclass(frozen=True)
class Plan:
    """Names of a prepared model's tensors, each tuple in the model's own order.

    ``may_train`` goes into the optimizer; ``saved`` (may-train, persistent buffers, and all that is
    not in the base) into checkpoints and artifacts; ``existing`` are the may-train parameters that
    the base already had, by the name they had there; ``added`` the parameters it did not have;
    ``fresh`` those of the base that no checkpoint holds.
    """

    may_train: tuple[str, ...]
    by_method: Mapping[str, frozenset[str]]
    saved: tuple[str, ...]
    existing: Mapping[str, str]
    added: tuple[str, ...]
    fresh: tuple[str, ...]

    def trained_count(self, model: nn.Module) -> int:
        """Return how many scalar parameters may train."""
        names = set(self.may_train)
        return sum(numel_of(p) for name, p in model.named_parameters() if name in names)


def make_plan(
    model: nn.Module, host: Host, base: Base, original: Mapping[str, Tensor], *, train_head: bool
) -> Plan:
    """Ask every method what may train and add the head.

    ``original`` holds the parameters the model had before any method was applied.
    """
    before = {id(parameter): name for name, parameter in original.items()}
    current = dict(model.named_parameters())
    was = {name: before.get(id(parameter)) for name, parameter in current.items()}
    head = {name for name in current if was[name] in base.head}

    by_method: dict[str, frozenset[str]] = {}
    for method, names in host.call_each("select_trainable", model=model):
        chosen = frozenset(names or ())
        if unknown := sorted(chosen - set(current)):
            raise MethodError(
                f"{method.name}: selects {unknown[0]!r}, which the model does not have"
            )
        if method.kind == "selection" and chosen and not any(was[name] for name in chosen):
            raise MethodError(
                f"{method.name}: selects nothing of {type(model).__name__} itself, only what other "
                "methods added: leave it out"
            )
        by_method[method.name] = chosen
    _refuse_idle_schedule(host, by_method)

    # Optimizers and regularisers select nothing: alone they mean full fine-tuning.
    selected = set().union(*by_method.values()) if by_method else set(current)
    may_train = selected | head if train_head else selected - head
    if not may_train:
        raise MethodError(f"{host.names}: nothing would train in {type(model).__name__}")
    for name in may_train:
        if not current[name].is_floating_point():
            raise MethodError(f"{host.names}: {name} is {current[name].dtype}: it cannot train")

    # What a method quantized in place is still the base's, under another object.
    new = {n for n in current if was[n] is None and current[n].is_floating_point()}
    no_base = {name for name in current if name in new or was[name] in base.fresh}
    kept = [name for name in current if name in may_train or name in no_base]
    return Plan(
        may_train=tuple(name for name in current if name in may_train),
        by_method=by_method,
        saved=(*kept, *(name for name, _ in persistent_buffers(model))),
        existing={n: old for n in current if n in may_train and (old := was[n]) is not None},
        added=tuple(name for name in current if name in new),
        fresh=tuple(name for name in current if was[name] in base.fresh),
    )


def _refuse_idle_schedule(host: Host, by_method: Mapping[str, frozenset[str]]) -> None:
    """Refuse a schedule all of whose parameters another method trains in every step."""
    for method in host.methods:
        own = by_method.get(method.name)
        if not own or not host.implements_for(method, "schedule_trainable"):
            continue
        for other, names in by_method.items():
            if other != method.name and own <= names:
                raise MethodError(
                    f"{method.name}: {other} trains the same parameters in every step, so that the "
                    f"schedule has no effect: leave {other} out"
                )


def saved_tensors(model: nn.Module, plan: Plan) -> dict[str, Tensor]:
    """Return the live tensors of ``plan.saved``, without building a full state dict."""
    reshard(model)
    live: dict[str, Tensor] = named_tensors(model)
    # Detached, a part would no longer know of what.
    return {n: t if is_partitioned(t := live[n]) else t.detach() for n in plan.saved}


def set_trainable(model: nn.Module, names: frozenset[str] | set[str]) -> None:
    """Let exactly the named parameters require gradients."""
    reshard(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad != (name in names):
            parameter.requires_grad_(name in names)
            parameter.grad = None


def drop_gradients(model: nn.Module, but: set[str]) -> None:
    """Forget the gradients of all parameters but the named ones: the optimizer skips those."""
    for name, parameter in model.named_parameters():
        if name not in but:
            parameter.grad = None


def scheduled(model: nn.Module, host: Host, plan: Plan, step: int, total_steps: int) -> set[str]:
    """Return what trains in this step: a method with a schedule speaks only for its own names."""
    active = set(plan.may_train)
    for method, names in host.call_each(
        "schedule_trainable", model=model, step=step, total_steps=total_steps
    ):
        own = plan.by_method.get(method.name, frozenset())
        others = set().union(*(s for name, s in plan.by_method.items() if name != method.name))
        active -= own - set(names or ()) - others
    if not active:
        raise MethodError(f"{host.names}: the schedule leaves nothing to train in step {step}")
    return active
