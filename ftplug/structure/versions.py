"""Names within models that differ between versions of transformers.

Each function asks a model or its output which name it has, never for a version, so that a model
whose code lies on the Hub and still has the older names is read as well.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

CACHE_ARGUMENTS = ("cache", "past_key_values", "past_key_value", "layer_past", "cache_params")
"""What models and their layers call the cache of keys and values that they read and extend.

transformers 5.24 renamed all of them to ``cache`` and keeps ``past_key_values`` as an alias that
warns, until 5.40. The others, of layers and of state-space models, may go when transformers 5.24 is
the floor and no model on the Hub has them.
"""


def cache_argument(forward: nn.Module | Callable[..., Any]) -> str | None:
    """Return what a forward (or a module's) calls its cache, or None where it takes none."""
    takes = inspect.signature(getattr(forward, "forward", forward)).parameters
    return next((name for name in CACHE_ARGUMENTS if name in takes), None)


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """Return the cache among a call's arguments by name, under whichever it was passed, or None."""
    found = (arguments[name] for name in CACHE_ARGUMENTS if arguments.get(name) is not None)
    return next(found, None)


def set_cache(
    arguments: dict[str, Any], cache: Any, forward: nn.Module | Callable[..., Any]
) -> None:
    """Let ``cache`` be the one cache among a call's arguments, by the name ``forward`` has for it.

    Raises KeyError where ``forward`` takes none: ask :func:`cache_argument` first.
    """
    name = cache_argument(forward)
    if name is None:
        raise KeyError(f"{forward!r} takes no cache: {', '.join(CACHE_ARGUMENTS)}")
    for other in CACHE_ARGUMENTS:
        arguments.pop(other, None)
    arguments[name] = cache


def without_cache(output: Any) -> None:
    """Drop the cache from a model's output (a ``ModelOutput``), in place.

    The field is looked up among those declared: since 5.24 asking for the old name warns.
    """
    declared = {field.name for field in dataclasses.fields(output)}
    for name in CACHE_ARGUMENTS:
        if name in declared and getattr(output, name) is not None:
            output[name] = None


def activation_checkpointing(model_or_args: Any) -> bool:
    """Whether a model has activation checkpointing on, or ``TrainingArguments`` ask for it.

    Called gradient checkpointing before transformers 5.23, where the older names of both begin to
    be deprecated. May go when 5.23 is the floor.
    """
    for name in ("activation_checkpointing", "gradient_checkpointing"):  # a deprecated one warns
        for asked in (f"is_{name}", name):
            if hasattr(model_or_args, asked):
                return bool(getattr(model_or_args, asked))
    return False


@contextmanager
def switched_activation_checkpointing(model: Any, on: bool) -> Iterator[None]:
    """Switch a transformers model's activation checkpointing on or off within the block.

    Nothing else changes: to enable it lets embeddings need a gradient as well, and for good.
    """
    from torch.utils.checkpoint import checkpoint

    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    before = [
        (module, {name: vars(module).get(name) for name in names}) for module in model.modules()
    ]
    function = functools.partial(checkpoint, use_reentrant=False)
    model._set_gradient_checkpointing(enable=on, gradient_checkpointing_func=function)
    try:
        yield
    finally:
        for module, values in before:
            for name, value in values.items():
                vars(module).pop(name, None)
                if value is not None:
                    vars(module)[name] = value


def bias_has_mask(attention: nn.Module) -> bool:
    """Whether the position bias that an attention of T5 hands on has the attention mask in it.

    So it was until the attention returned its weights always, and lost the argument that asks for
    them: after transformers 5.8, by 5.16. May go when 5.16 is the floor.
    """
    return "output_attentions" in inspect.signature(attention.forward).parameters


def sentence_modules() -> tuple[Any, ...]:
    """Return the modules of sentence-transformers that hold no weights.

    5.4 moved them; the older place may go when 5.4 is the floor.
    """
    try:
        from sentence_transformers.sentence_transformer import modules
    except ImportError:
        from sentence_transformers import models as modules  # type: ignore
    return modules.Pooling, modules.Normalize, modules.Dropout
