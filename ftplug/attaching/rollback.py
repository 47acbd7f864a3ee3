"""Undoing a change that failed halfway: what cannot be rehearsed without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftplug.structure import named_parameters

if TYPE_CHECKING:
    from torch import nn


class Snapshot:
    """A model's structure as it is, at the cost of references; :meth:`restore` gives it back.

    Modules, configs, classes, attributes and tensors are those that were there. Values are, where
    they were replaced (``parameter.data = …``, as peft does), not where they were written over.
    ``objects`` are (module or config, class, attributes), ``parameters`` those of the model by
    name; ``values`` are (parameter, its tensor, whether it trains).
    """

    def __init__(self, model: nn.Module) -> None:
        self.parameters = named_parameters(model)
        self.objects = [(one, type(one), _attributes(one)) for one in _objects(model)]
        self.values = [(p, p.data, p.requires_grad) for p in model.parameters()]

    def restore(self) -> None:
        """Take back everything that was done to the model since."""
        for one, cls, attributes in self.objects:
            if type(one) is not cls:
                one.__class__ = cls
            one.__dict__.clear()
            for name, (value, content) in attributes.items():
                if content is not None:
                    value.clear()  # the same container: handles of hooks hold on to it
                    value.update(content)
                one.__dict__[name] = value
        for parameter, data, trains in self.values:
            parameter.data = data
            parameter.requires_grad_(trains)


def _objects(model: nn.Module) -> list[Any]:
    """Return the modules of a model, and the configs that they hold."""
    modules = list(model.modules())
    configs = (module.__dict__.get("config") for module in modules)
    return [*modules, *{id(c): c for c in configs if hasattr(c, "to_dict")}.values()]


def _attributes(one: Any) -> dict[str, tuple[Any, Any]]:
    """Return an object's attributes, with a copy of what is in those that are dicts or sets."""
    return {
        name: (value, value.copy() if isinstance(value, dict | set) else None)
        for name, value in vars(one).items()
    }
