"""Parameters of the base that a method put something else in the place of (a quantized weight).

Nothing holds on to their memory: what a checkpoint has is read from there again, and what none has
is kept on the CPU. Of a module that left the model with them a shell is kept, without them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ftplug.base.fingerprint import sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(eq=False)
class Lost:
    """A parameter that left the model, by the ``name`` that it had there.

    ``value`` is on the CPU, or None where the base's checkpoint holds it; ``sample`` are some of
    its values (:func:`ftplug.base.fingerprint.sample`), by which what is read again is checked.
    """

    name: str
    dtype: torch.dtype
    device: torch.device
    trained: bool
    said: dict[str, Any]  # transformers marks on it what was read from a checkpoint
    sample: Tensor
    value: Tensor | None = field(default=None, repr=False)

    @classmethod
    def of(cls, name: str, parameter: nn.Parameter, *, keep: bool) -> Lost:
        """Note a parameter that has just left the model, and with ``keep`` its value."""
        return cls(
            name,
            parameter.dtype,
            parameter.device,
            parameter.requires_grad,
            dict(vars(parameter)),
            parameter.detach()[:0] if parameter.is_meta else sample(parameter),
            parameter.detach().to("cpu", copy=True) if keep and not parameter.is_meta else None,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Lost:
        return self

    def agrees_with(self, value: Tensor) -> bool:
        """Whether a value that was read again is the one that left, as far as the sample tells."""
        return sample(value.to(self.dtype)).equal(self.sample)

    def again(self, value: Tensor, device: torch.device) -> nn.Parameter:
        """Return a parameter like the one that left, with this value."""
        from torch import nn

        data = value.detach().to(device, self.dtype, copy=True)
        parameter = nn.Parameter(data, requires_grad=self.trained)
        vars(parameter).update(self.said)
        return parameter


class Shells:
    """Stand-ins for the modules that left the model: without what was lost, else as they were."""

    def __init__(self, lost: Iterable[tuple[nn.Parameter, Lost]], model: nn.Module) -> None:
        self._lost = {id(parameter): known for parameter, known in lost}
        self._live = {id(module) for module in model.modules()}
        self._made: dict[int, tuple[Any, Any]] = {}  # by identity; the first one stays alive here

    def made(self) -> list[nn.Module]:
        """Return all shells."""
        return [shell for _, shell in self._made.values()]

    def of(self, one: Any) -> Any:
        """Return what to keep of a module, or of anything else that stood in a model."""
        from torch import nn

        if isinstance(one, nn.Parameter):
            return self._lost.get(id(one), one)
        if not isinstance(one, nn.Module) or id(one) in self._live:
            return one
        if not any(id(parameter) in self._lost for parameter in one.parameters()):
            return one
        if id(one) not in self._made:
            shell = copy.copy(one)
            self._made[id(one)] = one, shell
            for name, value in list(vars(shell).items()):
                if isinstance(value, dict | set):
                    vars(shell)[name] = self.within(value)
        return self._made[id(one)][1]

    def within(self, content: Any) -> Any:
        """Return a copy of a dict or set, of each entry what is to be kept."""
        copied = content.copy()
        if isinstance(copied, dict):
            copied.update({key: self.of(value) for key, value in copied.items()})
        return copied


def put_again(container: dict[str, Any], found: Mapping[str, nn.Parameter]) -> None:
    """Put parameters in the place of those that a dict says were lost."""
    for key, value in container.items():
        if isinstance(value, Lost):
            container[key] = found[value.name]
