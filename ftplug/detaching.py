"""``ftplug.detach``: the base is there again, and another method can have it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from ftplug.attaching.changing import changes_model
from ftplug.attaching.detaching import detach_model
from ftplug.errors import MethodError
from ftplug.training.activation_checkpointing import give_back

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer

    AnyModel = TypeVar("AnyModel", bound=nn.Module)
    AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)


@overload
def detach(model_or_trainer: AnyModel) -> AnyModel: ...
@overload
def detach(model_or_trainer: AnyTrainer) -> AnyTrainer: ...
@changes_model
def detach(model_or_trainer: Any) -> Any:
    """Take the methods off a model, or a Trainer and its model, in place; returns the same object.

    Modules, names, values, what requires gradients, hooks and modes are those from before, to the
    last bit, whether the model trained, was loaded or neither: what was learned is gone (save it
    first). Values come from memory where no checkpoint holds them, else from the base's checkpoint.
    What others did to the model meanwhile (its device, hooks, attributes of their own) stays.

    A Trainer is as its constructor left it, the random generators seeded with ``args.seed``: attach
    another method, or train the base itself. Its output folder stays.

    Raises :class:`MethodError`, with nothing changed, where the base cannot be given back: a merged
    model, one in shards or compiled, a train() that is running.
    """
    from torch import nn

    if isinstance(model_or_trainer, nn.Module):
        give_back(detach_model(model_or_trainer))
        return model_or_trainer
    from transformers import Trainer

    if not isinstance(model_or_trainer, Trainer):
        raise MethodError(f"detach: give it a model or a Trainer, not {model_or_trainer!r}")
    from ftplug.training.running.detaching import detach_trainer

    give_back(detach_trainer(model_or_trainer).model)  # type: ignore[arg-type]
    return model_or_trainer
