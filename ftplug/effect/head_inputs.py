"""What a base's trunk gives its head, kept from before training for the head that was trained."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ftplug.errors import NotProbed

if TYPE_CHECKING:
    from torch import nn

    from ftplug.attaching.attachment import Attachment


class HeadInputs:
    """The inputs of a head's modules, call by call, on the CPU.

    The base's own tensors train in full fine-tuning. To ask the trained head on the base's trunk
    afterwards takes no second copy of the base, only these: the head is given them again.
    """

    def __init__(self, model: nn.Module, attached: Attachment) -> None:
        self.names = _outermost(model, attached.trained_head, attached.plan.added)
        self._calls: dict[str, list[Any]] = {name: [] for name in self.names}

    @contextmanager
    def recorded(self, model: nn.Module) -> Iterator[None]:
        """Keep what the head is given within the block."""

        def keep(name: str, arguments: Any) -> None:
            self._calls[name].append(_mapped(arguments, lambda t: t.detach().to("cpu", copy=True)))

        with self._listening(model, keep):
            yield

    @contextmanager
    def given(self, model: nn.Module) -> Iterator[None]:
        """Give the head within the block what was recorded, in the order of its calls."""
        waiting = {name: iter(calls) for name, calls in self._calls.items()}

        def replaced(name: str, arguments: Any) -> Any:
            device = next(model.get_submodule(name).parameters()).device
            try:
                kept = next(waiting[name])
            except StopIteration:
                raise NotProbed(f"{name} is called more often now than of the base") from None
            return _mapped(kept, lambda tensor: tensor.to(device))

        with self._listening(model, replaced):
            yield

    @contextmanager
    def _listening(self, model: nn.Module, hear: Any) -> Iterator[None]:
        with ExitStack() as hooks:
            for name in self.names:

                def hook(_: Any, args: Any, kwargs: Any, name: str = name) -> Any:
                    return hear(name, (args, kwargs))

                module = model.get_submodule(name)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                hooks.callback(handle.remove)
            yield


def _outermost(model: nn.Module, head: Collection[str], added: Collection[str]) -> tuple[str, ...]:
    """Return the names of the modules that hold parameters of the head alone."""
    own, beside = set(head), set(added)
    found: list[str] = []
    for name, module in model.named_modules():
        held = {f"{name}.{n}" if name else n for n, _ in module.named_parameters()} - beside
        inside = any(name.startswith(f"{other}.") for other in found)
        if held and held <= own and not inside:
            found.append(name)
    covered = tuple(f"{name}." for name in found)
    if lost := [name for name in head if not name.startswith(covered)]:
        raise NotProbed(f"{lost[0]} of the head stands beside parameters of the trunk")
    return tuple(found)


def _mapped(value: Any, change: Any) -> Any:
    """Apply ``change`` to the tensors in nested containers."""
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {name: _mapped(inner, change) for name, inner in value.items()}
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(_mapped(inner, change) for inner in value)
    return value
