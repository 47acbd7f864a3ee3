"""The target modules of peft's methods: those asked for, peft's own choice, or those that fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.structure import (
    linear_layers,
    pretrained,
    require_layer_stacks,
    require_output_projections,
    task_head,
)

if TYPE_CHECKING:
    from torch import nn

# How architectures name the attention's query and value projection; fused ones have one name.
_QUERY_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("query_key_value",),
    ("qkv_proj",),
    ("qkv",),
)


def choose_targets(config: Any, model: nn.Module) -> None:
    """Fill in the targets that a config leaves open, and what all-linear leaves out."""
    asked = getattr(config, "target_modules", "none")
    if asked is None:
        fallback = _FALLBACKS.get(config.peft_type.value, query_and_value)
        fallback(config, model)
    elif asked == "all-linear":
        _all_linear(config, model)


def default_targets(model: nn.Module, known: dict[str, Any]) -> list[str] | str | None:
    """Return peft's own choice for the architecture, or query and value where it has none.

    None leaves the choice to peft, which knows the architecture by the model's own config.
    """
    inner = pretrained(model)
    if (own := known.get(inner.config.model_type)) is not None:
        return None if inner is model or isinstance(own, str) else list(own)
    return attention_names(model)


def attention_names(model: nn.Module) -> list[str] | None:
    """Return what the architecture calls query and value."""
    ends = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    return next((sorted(names) for names in _QUERY_VALUE if ends.issuperset(names)), None)


def no_targets(model: nn.Module) -> list[str]:
    """Return what all-linear leaves out.

    The head, what a method put inside a linear layer, and what torch reads past the module.
    """
    head = {name.rpartition(".")[0] for name in task_head(model)}
    inside = tuple(f"{name}." for name in (*linear_layers(model), *fused_attentions(model)))
    return sorted(head) + [name for name, _ in model.named_modules() if name.startswith(inside)]


def fused_attentions(model: nn.Module) -> list[str]:
    """Return torch's own attention modules, which read the weights inside them without a call."""
    from torch import nn

    return [n for n, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]


def known_targets(config: Any) -> dict[str, Any]:
    """Return peft's table of targets by architecture for this method."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING as TUNERS
    from peft.utils import constants

    if config.peft_type.value == "IA3":
        return dict(constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING)
    return dict(getattr(TUNERS[config.peft_type], "target_module_mapping", {}))


def query_and_value(config: Any, model: nn.Module) -> None:
    """Take peft's choice for the architecture, or query and value where it has none that fits."""
    known = known_targets(config).get(pretrained(model).config.model_type)
    if isinstance(known, str):
        config.target_modules = known
    elif known is not None and _present(model, known):
        config.target_modules = list(known)
    else:
        config.target_modules = attention_names(model)


def _present(model: nn.Module, ends: Iterable[str]) -> bool:
    names = [f".{name}" for name, _ in model.named_modules()]
    return all(any(name.endswith(f".{end}") for name in names) for end in ends)


def _value(config: Any, model: nn.Module) -> None:
    """BEFT: the value projection alone."""
    query_and_value(config, model)
    config.target_modules = config.target_modules and config.target_modules[-1:]


def _keys_values_and_feed_forward(config: Any, model: nn.Module) -> None:
    """IA3: as its paper, where peft does not know the architecture."""
    from peft.utils import constants

    table = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    known = known_targets(config).get(pretrained(model).config.model_type)
    names = attention_names(model)
    if known is not None and _present(model, known):
        config.target_modules = list(known)
        if config.feedforward_modules is None:
            config.feedforward_modules = list(table[pretrained(model).config.model_type])
    elif names is not None:
        keys = [re.sub("^q(uery)?", lambda q: "key" if q[1] else "k", name) for name in names]
        layer = require_layer_stacks(model, "ia3")[0].layers[0]
        last = require_output_projections(layer, "ia3").feed_forward
        config.target_modules = [*keys, last]
        config.feedforward_modules = config.feedforward_modules or [last]


def _norms(config: Any, model: nn.Module) -> None:
    """LN tuning: every normalisation layer, where peft does not know the architecture."""
    known = known_targets(config).get(pretrained(model).config.model_type)
    if known is not None and _present(model, known):
        config.target_modules = list(known)
        return
    kinds = ("LayerNorm", "RMSNorm", "GroupNorm")
    norms = [n for n, m in model.named_modules() if type(m).__name__.endswith(kinds)]
    if not norms:
        raise MethodError(f"ln-tuning: {type(model).__name__} has no layer norms: use lora")
    config.target_modules = norms


def _embedding(config: Any, model: nn.Module) -> None:
    """Trainable tokens: the embedding of the input's tokens."""
    try:
        embedding = pretrained(model).get_input_embeddings()
    except NotImplementedError:
        embedding = None
    if getattr(embedding, "num_embeddings", None) is None:
        raise MethodError(
            f"trainable-tokens: {type(model).__name__} reads no tokens: use lora or ln-tuning"
        )
    name = next(n for n, m in model.named_modules() if m is embedding)
    config.target_modules = [name]


def _all_linear(config: Any, model: nn.Module) -> None:
    """Name all linear layers but the head; peft itself would adapt some heads as well."""
    if hasattr(config, "exclude_modules"):
        config.target_modules = "all-linear"
        config.exclude_modules = _listed(config.exclude_modules) + no_targets(model) or None
        return
    excluded = set(no_targets(model))
    head = pretrained(model).get_output_embeddings()
    modules = dict(model.named_modules())
    config.target_modules = [
        name for name in linear_layers(model) if name not in excluded and modules[name] is not head
    ]


def _listed(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else sorted(given or ())


_FALLBACKS: dict[str, Callable[[Any, nn.Module], None]] = {
    "BEFT": _value,
    "IA3": _keys_values_and_feed_forward,
    "LN_TUNING": _norms,
    "OSF": _all_linear,
    "TRAINABLE_TOKENS": _embedding,
}
