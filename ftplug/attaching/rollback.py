"""Undoing a change that failed halfway: what cannot be rehearsed without weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


class Snapshot:
    """A model's structure as it is, at the cost of references; :meth:`restore` gives it back.

    Modules, classes, attributes and tensors are those that were there. Values are, where they were
    replaced (``parameter.data = …``, as peft does), not where they were written over.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [(module, type(module), _attributes(module)) for module in model.modules()]
        self._values = [(p, p.data, p.requires_grad) for p in model.parameters()]

    def restore(self) -> None:
        """Take back everything that was done to the model since."""
        for module, cls, attributes in self._modules:
            module.__class__ = cls
            module.__dict__.clear()
            for name, (value, content) in attributes.items():
                if content is not None:
                    value.clear()  # the same container: handles of hooks hold on to it
                    value.update(content)
                module.__dict__[name] = value
        for parameter, data, trains in self._values:
            parameter.data = data
            parameter.requires_grad_(trains)


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Return a module's attributes, with a copy of what is in those that are dicts or sets."""
    return {
        name: (value, value.copy() if isinstance(value, dict | set) else None)
        for name, value in vars(module).items()
    }
