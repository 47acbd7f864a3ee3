"""Two methods of peft on one model, where each has its own modules.

peft puts one kind of layer in place of a module, so two methods are independent where no module of
one is, holds or lies in a module of the other. Their files would both be called
``adapter_config.json``: the host's own file holds both instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_bridge.injected import Injection, injections, record

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def beside(
    name: str,
    config: Any,
    model: nn.Module,
    *,
    shareable: bool,
    literal: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[None]:
    """Let a method inject its layers beside those of the methods that are there already.

    Raises :class:`MethodError` where their modules meet, and for a method that stands alone.
    """
    if present := injections(model):
        _refuse_alone(name, present, shareable)
        _refuse_overlap(name, config, model, present)
        del model.peft_config  # else peft would take the second config for a second adapter
    yield
    # Before the host overwrites what requires gradients.
    trainable = tuple(n for n, parameter in model.named_parameters() if parameter.requires_grad)
    record(model, Injection(name, config, shareable, trainable, literal))


def trainable(model: nn.Module) -> Iterable[str]:
    """Return the names of what peft trains: of all its methods on the model."""
    return dict.fromkeys(name for present in injections(model) for name in present.trainable)


def refuse_second(name: str, model: nn.Module) -> None:
    """Refuse any other method of peft on the model."""
    if present := injections(model):
        _refuse_alone(name, present, False)


def _refuse_alone(name: str, present: Sequence[Injection], shareable: bool) -> None:
    for other in present:
        if not (shareable and other.shareable):
            raise MethodError(
                f"{name}: the model has peft's {other.method} already, and "
                f"{other.method if shareable else name} shares a model with no other method of "
                "peft: use one of them"
            )


def _refuse_overlap(name: str, config: Any, model: nn.Module, present: Sequence[Injection]) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists

    others = ", ".join(other.method for other in present)
    if config.target_modules is None or config.target_modules == "all-linear":
        raise MethodError(
            f"{name}: beside peft's {others} name its target_modules: modules that the other does "
            "not have"
        )
    taken = [path for path, _ in peft_files.tuner_layers(model)]
    for path, _ in model.named_modules():
        if not check_target_module_exists(config, path):
            continue
        if met := next((t for t in taken if _meet(t, path)), None):
            raise MethodError(
                f"{name}: its target {path} meets {met}, which peft's {others} adapts already: "
                "give each method target_modules of its own"
            )


def _meet(first: str, second: str) -> bool:
    return first == second or first.startswith(f"{second}.") or second.startswith(f"{first}.")
