"""``run_view``: what hooks are given as ``run``, for an author's own tests of single hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug import structure
from ftplug.attaching.attachment import attachment_of, unwrap_model
from ftplug.attaching.run_view import NoTrainer, RunFacts
from ftplug.base.inspecting import inspect_base
from ftplug.context import Context, RunView
from ftplug.errors import MethodError
from ftplug.host import Host, resolve
from ftplug.method import Method

if TYPE_CHECKING:
    from torch import nn


def run_view(model: nn.Module, method: str | Method) -> RunView:
    """Return what the hooks of ``method`` are given as ``run`` on this model.

        model = ftplug.apply(tiny.bert(), MyMethod())
        run = run_view(model, "my-method")
        MyMethod().on_step(model=model, step=1, run=run)
        assert run.state["steps"] == 1

    On a model that carries the method (by ``ftplug.apply``, ``load`` or a Trainer) it is the view
    of that run, with the run's own ``state``. On a base it is what ``prepare_model`` sees, under
    seed 42: ``may_train`` and what follows from it are not known yet. Raises
    :class:`ftplug.MethodError` where the model carries other methods.
    """
    inner = unwrap_model(model)
    name = method if isinstance(method, str) else method.name
    attached = attachment_of(inner)
    if attached is None:
        [configured] = resolve([method], {})
        host, facts = Host([configured]), _untouched(inner)
        return facts.views(host)(configured, inner)
    known = {m.name: m for m in attached.host.methods}
    if name not in known:
        raise MethodError(f"run_view: the model carries {attached.host.names}, not {name}")
    return attached.host.views(known[name], inner)


def _untouched(model: nn.Module) -> RunFacts:
    """Return what a run knows of a base before any method has changed it."""
    context = Context(seed=42, task=structure.task_of(model), model_class=type(model).__name__)
    return RunFacts(context, inspect_base(model), NoTrainer())
