"""Two methods of peft on one model, where each has its own modules.

peft puts one kind of layer in place of a module, so two methods are independent where no module of
one is, holds or lies in a module of the other. Their files would both be called
``adapter_config.json``: the host's own file holds both instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug_plugins.peft_bridge import files as peft_files

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def beside(name: str, config: Any, model: nn.Module, *, shareable: bool) -> Iterator[None]:
    """Let a method inject its layers beside those of the methods that are there already.

    Raises :class:`MethodError` where their modules meet, and for a method that stands alone.
    """
    present = _configs(model)
    if present:
        _refuse_alone(name, present, shareable)
        _refuse_overlap(name, config, model, present)
        del model.peft_config  # else peft would take the second config for a second adapter
    config.ftplug_shareable = shareable
    yield
    new = [n for n, parameter in model.named_parameters() if parameter.requires_grad]
    known = present[-1].ftplug_trainable if present else []
    config.ftplug_trainable = list(dict.fromkeys([*known, *new]))  # before the host overwrites it
    config.ftplug_beside = present


def trainable(model: nn.Module) -> Iterable[str]:
    """Return the names of what peft trains: of all its methods on the model."""
    names: list[str] = peft_files.config_of(model).ftplug_trainable
    return names


def refuse_second(name: str, model: nn.Module) -> None:
    """Refuse any other method of peft on the model."""
    if present := _configs(model):
        _refuse_alone(name, present, False)


def _configs(model: nn.Module) -> list[Any]:
    """Return the configs of peft's methods on the model, in the order they were given."""
    if not hasattr(model, "peft_config"):
        return []
    last = peft_files.config_of(model)
    return [*getattr(last, "ftplug_beside", ()), last]


def _refuse_alone(name: str, present: list[Any], shareable: bool) -> None:
    for config in present:
        if not (shareable and getattr(config, "ftplug_shareable", False)):
            raise MethodError(
                f"{name}: the model has peft's {_name(config)} already, and "
                f"{_name(config) if shareable else name} shares a model with no other method of "
                "peft: use one of them"
            )


def _refuse_overlap(name: str, config: Any, model: nn.Module, present: list[Any]) -> None:
    from peft.tuners.tuners_utils import check_target_module_exists

    others = ", ".join(map(_name, present))
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


def _name(config: Any) -> str:
    return str(config.peft_type.value).lower().replace("_", "-")
