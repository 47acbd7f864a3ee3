"""What got no gradient in the first backward pass of a hand-written loop, said once."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ftplug.context import logger
from ftplug.frames import calling_module

if TYPE_CHECKING:
    from torch import nn

# It runs a backward of its own for each layer, within that of the loss.
_REENTRANT = ("torch.utils.checkpoint",)
_EXPERTS = ".experts."  # in the names of what a router may leave without a token


class FirstBackward:
    """Hooks on all that may train, until the end of the first backward pass.

    ``without`` names what had no gradient so far. What trains is asked for when the pass ends: a
    schedule may have switched some off. After it only the tensors that were silent are listened to.
    Where all that trains lies in layers that are checkpointed reentrantly, nothing is ever said.
    """

    def __init__(self, model: nn.Module, names: Collection[str], methods: str) -> None:
        self.without = set(names)
        self._methods = methods
        self._model = weakref.ref(model)
        self._queued = self._ended = False
        live = dict(model.named_parameters())
        self._hooks = {
            name: live[name].register_hook(lambda _, name=name: self._reached(name))
            for name in names
            if live[name].requires_grad
        }

    def stop(self) -> None:
        """Listen no longer: a Trainer looks for itself."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks = {}

    def _reached(self, name: str) -> None:
        self.without.discard(name)
        if self._ended:
            if name in self._hooks:
                self._hooks.pop(name).remove()
        elif not self._queued and not calling_module(_REENTRANT):
            from torch.autograd import Variable

            self._queued = True
            Variable._execution_engine.queue_callback(self._end)

    def _end(self) -> None:
        self._ended = True
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


def _listed(names: Sequence[str], count: int) -> str:
    more = f", … ({len(names)} of {count} tensors)" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
