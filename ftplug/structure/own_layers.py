"""Layers whose forward is a model's own: whether they do what others of their kind do."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Hashable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from ftplug.structure.weightless import weightless_copy

if TYPE_CHECKING:
    from torch import Tensor, nn

# Models of transformers, and those whose code lies on the Hub.
_MODELS = ("transformers.models.", "transformers_modules.")
_SHAPE = (3, 5)  # of what a layer is asked with: no group or head count of any model


def maps_features(layer: nn.Module, read: int, written: int) -> bool:
    """Whether a layer with the features of a linear one maps (…, read) to (…, written).

    A router that returns a tuple does not, nor does a product in groups that have a dimension of
    their own. Found by running a weightless copy; only classes of a model's own code are asked.
    """
    import torch

    dtype = next(layer.parameters()).dtype
    return _gives(layer, torch.empty(*_SHAPE, read, device="meta", dtype=dtype), written)


def embeds_tokens(layer: nn.Module, width: int) -> bool:
    """Whether an embedding maps (…) ids to (…, width): I-BERT's returns a tuple."""
    import torch

    return _gives(layer, torch.zeros(*_SHAPE, dtype=torch.long, device="meta"), width)


def _gives(layer: nn.Module, asked: Tensor, width: int) -> bool:
    import torch

    if not type(layer).__module__.startswith(_MODELS):
        return True
    try:
        output = weightless_copy(layer)(asked)
    except Exception:  # whatever it may raise on an input that it does not expect
        return False
    return isinstance(output, torch.Tensor) and output.shape == (*_SHAPE, width)


def read_past(model: nn.Module) -> dict[str, str]:
    """Return the modules whose weight a model's code reads and that it never calls, by name.

    Mamba's convolution, WavLM's projections: what stands in such a module's place has no effect.
    Found in the text of the model's classes; the value is the class that reads.
    """
    return {
        f"{name}.{part}" if name else part: type(module).__name__
        for name, module in model.named_modules()
        for part in _read_past(cast("Hashable", type(module)))
        if hasattr(module, part)
    }


@functools.cache
def _read_past(cls: Hashable) -> frozenset[str]:
    """Return the attributes of a class of a model's own code that it reads past their forward."""
    text = ""
    for own in cast("type", cls).__mro__:
        if own.__module__.startswith(_MODELS):
            with suppress(OSError, TypeError):  # no file holds it
                text += inspect.getsource(own)
    called = set(re.findall(r"self\.(\w+)\(", text))
    return frozenset(re.findall(r"self\.(\w+)\.weight\b", text)) - called


def reads_packed_rows(layer: nn.Module) -> bool:
    """Whether a layer's hidden states are (tokens, width), all rows of a batch in one."""
    return "cu_seqlens" in inspect.signature(layer.forward).parameters
