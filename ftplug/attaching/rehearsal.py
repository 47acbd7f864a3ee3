"""Putting methods on a model: rehearsed on a copy without weights, then done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ftplug.attaching.plan import Plan, make_plan
from ftplug.attaching.run_view import NoTrainer, RunFacts
from ftplug.context import logger
from ftplug.errors import FtplugError
from ftplug.structure import weightless_copy

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

    def rehearsed_on(self, model: nn.Module, accept: Accept) -> bool:
        """Go through it on a copy without weights, so that a refusal comes before any change.

        Returns whether that could be done. What is not a refusal (a model that cannot be copied, an
        initialisation that computes with the weights) is left to the real thing.
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
            return False
        accept(self.host, plan)
        return True


@contextmanager
def _drawn_under(seed: int, model: nn.Module) -> Iterator[None]:
    """Seed torch's generators for the block and put them back afterwards."""
    import torch

    devices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        torch.manual_seed(seed)
        yield
