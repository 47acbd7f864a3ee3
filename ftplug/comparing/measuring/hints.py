"""What a candidate could have beside it, and nobody turns on for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.errors import FtplugError
from ftplug.host import Host, resolve
from ftplug.structure import weightless_copy

if TYPE_CHECKING:
    from ftplug.training.run import Run

CACHE = "trunk-cache"


def could_cache(run: Run, epochs: float) -> bool:
    """Whether ``trunk-cache`` fits beside a run's methods, and examples come up again.

    It is asked itself, on a weightless copy of the model.
    """
    attached = run.attached
    if epochs <= 1 or any(method.name == CACHE for method in attached.host.methods):
        return False
    try:
        asked = Host(resolve([CACHE], {}))
        both = Host([*attached.host.methods, *asked.methods])
        asked.views = attached.facts.views(both)
        copy, may_train = weightless_copy(run.model), frozenset(attached.plan.may_train)
        asked.call("finish_model", model=copy, may_train=may_train, context=attached.context)
    except (FtplugError, RuntimeError, TypeError):  # not installed, does not fit, is not copied
        return False
    return True
