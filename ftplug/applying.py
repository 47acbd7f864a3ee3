"""``ftplug.apply``: methods on a model, for a hand-written training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.artifacts.saving import take_over_saving
from ftplug.attaching.attachment import attachment_of, prepare, unwrap_model
from ftplug.attaching.changing import changes_model
from ftplug.attaching.first_backward import FirstBackward
from ftplug.context import Context
from ftplug.effect.taking import take_base
from ftplug.host import MethodLike, resolve

if TYPE_CHECKING:
    from torch import nn


@changes_model
def apply(
    model: nn.Module,
    *methods: MethodLike,
    train_head: bool = True,
    seed: int = 42,
    probe: bool = True,
    **settings: Any,
) -> nn.Module:
    """Put one or several methods on a model, in place, for a hand-written training loop.

    ``apply(model, "lora", r=8)``, ``apply(model, Lora(r=8))``, ``apply(model, "lora", "bitfit")``.
    Afterwards exactly the parameters that train require gradients. Random initialisation is drawn
    under ``seed`` (the Trainer's default); torch's own generators are left as they were.

    The base is asked now what the artifact's probe will compare with, unless ``probe=False``
    leaves the probe out. What gets no gradient in the first backward pass is named once that has
    ended.

    No version of transformers is refused or checked here: binding to a Trainer does that. Returns
    the same object. Raises :class:`MethodError` where a method or setting does not fit.
    """
    configured = resolve(methods, settings)
    inner = unwrap_model(model)
    context = Context(seed=seed, task=structure.task_of(inner), model_class=type(inner).__name__)
    untouched = attachment_of(inner) is None
    attached = prepare(inner, configured, context, train_head=train_head)
    take_base(inner, wanted=probe, untouched=untouched)
    if attached.first_backward is None:
        names = attached.plan.may_train
        attached.first_backward = FirstBackward(inner, names, attached.host.names, _look_at_output)
    take_over_saving(inner)
    return model


def _look_at_output(model: nn.Module, _: Any, output: Any) -> None:
    import torch

    if torch.compiler.is_compiling():
        return
    if (attached := attachment_of(model)) and attached.first_backward:
        attached.first_backward.look_at(model, output)
