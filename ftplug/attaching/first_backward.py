"""What got no gradient in the first backward pass of a hand-written loop, said once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug.errors import MethodError
from ftplug.frames import calling_module

if TYPE_CHECKING:
    from torch import Tensor, nn

# It runs a backward of its own for each layer, within that of the loss.
_REENTRANT = ("torch.utils.checkpoint",)
_EXPERTS = ".experts."  # in the names of what a router may leave without a token


class FirstBackward:
    """Hooks on all that may train and on what the model gives, until the first backward pass ends.

    ``without`` names what had no gradient so far. What trains is asked for when the pass ends: a
    schedule may have switched some off. After it only the tensors that were silent are listened to.
    ``on_output`` is the forward hook that calls :meth:`look_at`: it holds no object, since copies
    of the model have it as well.
    """

    def __init__(
        self, model: nn.Module, names: Collection[str], methods: str, on_output: Callable[..., None]
    ) -> None:
        self.without = set(names)
        self._methods = methods
        self._model = weakref.ref(model)
        self._queued = self._ended = self._paused = False
        live = dict(model.named_parameters())
        self._hooks = {
            name: live[name].register_hook(lambda _, name=name: self._reached(name))
            for name in names
            if live[name].requires_grad
        }
        self._on_output = model.register_forward_hook(on_output)

    def listens_to(self, model: nn.Module) -> bool:
        """Whether it is this model's: of a copy it knows nothing."""
        return self._model() is model

    def stop(self) -> None:
        """Listen no longer: a Trainer looks for itself."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}
        self._on_output.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Look at no output within the block: the base model's own answers need no gradient."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def look_at(self, model: nn.Module, output: Any) -> None:
        """Listen for the backward pass of what the model gave, or say that there can be none."""
        import torch

        given = list(_floats(output))
        if not torch.is_grad_enabled() or self._paused or model is not self._model() or not given:
            return
        for tensor in (needing := [t for t in given if t.requires_grad]):
            tensor.register_hook(self._begun)
        if not needing and model.training:
            if getattr(output, "loss", None) is not None:
                require_reached(output.loss, model, self._methods)
            self._on_output.remove()
            trains = [name for name, p in model.named_parameters() if p.requires_grad]
            self._say(trains, len(trains))

    def _begun(self, _: Tensor | None) -> None:
        if not self._ended and not self._queued and not calling_module(_REENTRANT):
            from torch.autograd import Variable

            self._queued = True
            Variable._execution_engine.queue_callback(self._end)

    def _reached(self, name: str) -> None:
        self.without.discard(name)
        if self._ended:
            if name in self._hooks:
                self._hooks.pop(name).remove()
        else:
            self._begun(None)

    def _end(self) -> None:
        self._ended = True
        self._on_output.remove()
        for name in self._hooks.keys() - self.without:
            self._hooks.pop(name).remove()
        if model := self._model():
            trains = [name for name, p in model.named_parameters() if p.requires_grad]
            self._say([name for name in trains if name in self.without], len(trains))

    def _say(self, silent: Sequence[str], count: int) -> None:
        experts = [name for name in silent if _EXPERTS in name]
        others = [name for name in silent if _EXPERTS not in name]
        if others:
            logger.warning(
                "%s: no gradient reached %s in the first backward pass: not trained so far (this "
                "loss does not use them, or reads them past their layer)",
                self._methods, _listed(others, count),
            )  # fmt: skip
        if experts:
            logger.warning(
                "%s: no token reached the experts of %s in the first backward pass",
                self._methods, _listed(experts, count),
            )  # fmt: skip

    def say_what_never_trained(self) -> None:
        """Name, when a model is saved, what had no gradient in any pass."""
        if self._ended and self.without and (model := self._model()):
            trains = [name for name, p in model.named_parameters() if p.requires_grad]
            if silent := [name for name in trains if name in self.without]:
                logger.warning(
                    "%s: saved as they began: %s never got a gradient",
                    self._methods, _listed(silent, len(trains)),
                )  # fmt: skip


def require_reached(loss: Tensor, model: nn.Module, methods: str) -> None:
    """Raise where a loss depends on nothing that trains: torch's own error names neither."""
    if not loss.requires_grad:
        trains = [name for name, p in model.named_parameters() if p.requires_grad]
        raise MethodError(
            f"{methods}: the loss of this batch depends on nothing that trains "
            f"({_listed(trains, len(trains))}): give it what those read (images, sound), or let "
            "more train"
        )


def _floats(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of numbers in what a model gives."""
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from _floats(part)


def _listed(names: Sequence[str], count: int) -> str:
    more = f", … ({len(names)} of {count} tensors)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
