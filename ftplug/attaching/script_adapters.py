"""A script's own peft adapters, left out: ``ftplug run --drop-peft-config``.

TRL's trainers give their ``peft_config=`` to ``peft.get_peft_model``, as scripts do; transformers
and sentence-transformers have ``add_adapter``. Both then give the model as it is.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ftplug.attaching.merging import merge
from ftplug.context import logger

if TYPE_CHECKING:
    from torch import nn

_INSTEAD = "ftplug run --drop-peft-config leaves a new one out"
_LOADED = "one that it loads has learned something: merge_and_unload() it in the script"
_HAS_ADAPTERS = "_hf_peft_config_loaded"  # the Trainer refuses a quantized model without it


def way_out(dropped: bool) -> str:
    """Say what to do about an adapter, where new ones are ``dropped`` already or not."""
    return _LOADED if dropped else f"{_INSTEAD}; {_LOADED}"


@contextmanager
def left_out() -> Iterator[None]:
    """Let the script's adapters change nothing within the block.

    A module that imported ``get_peft_model`` meanwhile has peft's own again afterwards.
    """
    import peft
    from transformers.integrations.peft import PeftAdapterMixin

    own, add = peft.get_peft_model, PeftAdapterMixin.add_adapter
    with ExitStack() as within:
        active = [True]
        within.callback(active.clear)

        @functools.wraps(own)
        def get_peft_model(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return _as_it_is(model, "get_peft_model") if active else own(model, *args, **kwargs)

        @functools.wraps(add)
        def add_adapter(self: Any, *args: Any, **kwargs: Any) -> Any:
            return _as_it_is(self, "add_adapter") and None if active else add(self, *args, **kwargs)

        for module in list(sys.modules.values()):
            if vars(module).get("get_peft_model") is own:
                _replace(within, module, "get_peft_model", get_peft_model)
        _replace(within, PeftAdapterMixin, "add_adapter", add_adapter)
        yield


def forget(model: nn.Module | None) -> None:
    """Take back what the Trainer was told of a quantized model, once it is built."""
    given = getattr(model, "print_trainable_parameters", None)
    if model is not None and getattr(given, "__func__", None) is _print_trained:
        model.__dict__.pop(_HAS_ADAPTERS, None)


def _replace(within: ExitStack, owner: Any, name: str, value: Callable[..., Any]) -> None:
    within.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _as_it_is(model: nn.Module, what: str) -> nn.Module:
    """Return the model with what scripts ask a ``PeftModel`` for."""
    logger.warning("%s of the script is left out: ftplug's method alone trains", what)
    methods: dict[str, Callable[..., Any]] = {
        "print_trainable_parameters": _print_trained,
        "merge_and_unload": _merged,
    }
    for name, function in methods.items():
        model.__dict__[name] = types.MethodType(function, model)
    if getattr(model, "is_quantized", False):
        model.__dict__[_HAS_ADAPTERS] = True
    return model


def _print_trained(model: nn.Module) -> None:
    print("trainable params: ftplug's method chooses when the Trainer is built")


def _merged(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    return merge(model)
