"""Putting methods on a model: rehearsed on a copy without weights, then done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftplug.attaching.plan import Plan, make_plan
from ftplug.attaching.run_view import NoTrainer, RunFacts
from ftplug.context import logger
from ftplug.errors import FtplugError, MethodError, one_line
from ftplug.structure import named_tensors, weightless_copy
from ftplug.structure.shards import shape_of

if TYPE_CHECKING:
    from torch import nn

    from ftplug.host import Host

Accept = Callable[["Host", Plan], None]


@dataclass(frozen=True)
class Change:
    """What is to be done to a model: the methods, the run's facts, whether the head trains."""

    host: Host
    facts: RunFacts
    train_head: bool

    def to(self, model: nn.Module) -> Plan:
        """Let the methods change the model and return the plan."""
        host, facts = self.host, self.facts
        original = dict(model.named_parameters())
        host.views = facts.views(host)
        with _drawn_under(facts.context.seed, model):
            host.call("prepare_model", model=model, context=facts.context)
        plan = make_plan(model, host, facts.base, original, train_head=self.train_head)
        facts.plan = plan
        host.call(
            "finish_model", model=model, may_train=frozenset(plan.may_train), context=facts.context
        )
        return plan

    def to_parts(self, model: nn.Module, rehearsed: nn.Module | None) -> Plan:
        """Change a model that ``zero.Init`` partitioned; refuse what needs more than its parts.

        A method may take an empty tensor for a weight: then it fails, or what it adds has not the
        names and shapes that it had when it was rehearsed.
        """
        way_out = (
            "load the base before the TrainingArguments with DeepSpeed's config are made, so that "
            "it is whole until training begins, or use ZeRO-2"
        )
        names = self.host.names
        try:
            plan = self.to(model)
        except Exception as error:  # whatever a library says of an empty tensor
            raise MethodError(
                f"{names}: cannot be put on a base in parts (zero.Init): {one_line(error)}: "
                f"{way_out}"
            ) from error
        if rehearsed is None:
            raise MethodError(
                f"{names}: needs values of the base, which is in parts (zero.Init): {way_out}"
            )
        needed, found = (
            {name: tuple(shape_of(tensor)) for name, tensor in named_tensors(each).items()}
            for each in (rehearsed, model)
        )
        for name in sorted(needed.keys() | found.keys()):  # the same first one in every process
            if needed.get(name) != found.get(name):
                raise MethodError(
                    f"{names}: {name} is {found.get(name, 'missing')} on a base in parts "
                    f"(zero.Init), not {needed.get(name, 'missing')}: {way_out}"
                )
        return plan

    def rehearsed_on(self, model: nn.Module, accept: Accept) -> nn.Module | None:
        """Go through it on a copy without weights, so that a refusal comes before any change.

        Returns that copy, or None where that could not be done. What is not a refusal (a model that
        cannot be copied, an initialisation that computes with the weights) is left to the real
        thing.
        """
        import torch

        context = replace(self.facts.context, loading=True)
        nothing_logged = NoTrainer(context.args, context.total_steps)
        facts = replace(self.facts, context=context, states={}, surroundings=nothing_logged)
        try:
            copied = weightless_copy(model)
            with torch.device("meta"):
                plan = replace(self, facts=facts).to(copied)
        except FtplugError:
            raise
        except Exception as error:  # whatever a stranger's module does when copied
            logger.debug("not rehearsed: %r", error)
            return None
        accept(self.host, plan)
        return copied


@contextmanager
def _drawn_under(seed: int, model: nn.Module) -> Iterator[None]:
    """Seed torch's generators for the block and put them back afterwards."""
    import torch

    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(seed)
        yield
