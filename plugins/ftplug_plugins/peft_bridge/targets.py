"""The target modules of peft's methods: those asked for, peft's own choice, or those that fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.context import logger
from ftplug.structure import (
    backbone,
    layer_stacks,
    linear_layers,
    maps_features,
    pretrained,
    read_past,
    require_layer_stacks,
    require_output_projections,
    stacked_experts,
    task_head,
)

if TYPE_CHECKING:
    from torch import nn

ALL_EXPERTS = "all-experts"  # of target_parameters, as all-linear is of target_modules

# How architectures name the attention's query and value projection; fused ones have one name.
_QUERY_VALUE = (
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("q_b_proj", "kv_b_proj"),  # DeepSeek's latent attention, and
    ("q_proj", "kv_b_proj"),  # where its queries are not latent
    ("q_lin", "v_lin"),
    ("q", "v"),
    ("query_key_value",),
    ("qkv_proj",),
    ("qkv",),
    ("c_attn",),
    ("Wqkv",),
    ("query_proj", "value_proj"),
    ("linear_q", "linear_v"),
    ("project_q", "project_v"),
    ("projection_query", "projection_value"),
)


_SHOWN = 8  # names in a message
_NO_LINEAR = "it has no linear layers below its head: use bitfit or layernorm"
_KEY = re.compile("^q(uery)?(?!kv)")


def choose_targets(config: Any, model: nn.Module) -> None:
    """Fill in the targets that a config leaves open, and what all-linear leaves out."""
    asked = getattr(config, "target_modules", "none")
    if asked is None:
        fallback = _FALLBACKS.get(config.peft_type.value, query_and_value)
        fallback(config, model)
    elif asked == "all-linear":
        _all_linear(config, model)
        _say_what_is_left_out(model)
    if ALL_EXPERTS in (getattr(config, "target_parameters", None) or ()):
        config.target_parameters = _with_all_experts(config.target_parameters, model)


def _say_what_is_left_out(model: nn.Module) -> None:
    left = not_plain(model)
    if left and not next(model.parameters()).is_meta:  # the rehearsal says nothing
        more = f", … ({len(left)} in all)" if len(left) > 2 else ""
        logger.warning("all-linear leaves out %s%s: no plain linear", ", ".join(left[:2]), more)


def _with_all_experts(asked: Iterable[str], model: nn.Module) -> list[str]:
    """Return target parameters with the ends of the experts' names in the place of the word."""
    experts = stacked_experts(model)
    if not experts:
        raise MethodError(
            f"target_parameters={ALL_EXPERTS}: {type(model).__name__} has no experts that are one "
            "tensor for all: target_modules reaches those that are modules"
        )
    ends = {".".join(name.split(".")[-2:]) for name in experts}
    return sorted(ends | {name for name in asked if name != ALL_EXPERTS})


def default_targets(model: nn.Module, known: dict[str, Any]) -> list[str] | str | None:
    """Return peft's own choice for the architecture, or query and value where it has none.

    None leaves the choice to peft, which knows the architecture by the model's own config.
    """
    inner = pretrained(model)
    if (own := known.get(inner.config.model_type)) is not None:
        return None if inner is model or isinstance(own, str) else list(own)
    return attention_names(model)


def attention_names(model: nn.Module) -> list[str] | None:
    """Return what the architecture calls query and value.

    Where its decoder has none of these names (Phi-4 multimodal: the towers alone do), also what
    they are called there.
    """
    names = _query_value(_layer_ends(model))
    decoder = _decoder_layers(model)
    if names and decoder and not decoder.intersection(names):
        names = (*names, *(_query_value(decoder) or ()))
    return sorted(names) if names else None


def _query_value(ends: Collection[str]) -> tuple[str, ...] | None:
    return next((names for names in _QUERY_VALUE if set(ends).issuperset(names)), None)


def _decoder_layers(model: nn.Module) -> set[str]:
    """Return the last parts of the names of all that is in the layers of the model's decoder."""
    modules = dict(model.named_modules())
    decoder = backbone(model).get_decoder()
    own = [s for s in layer_stacks(model) if modules[s.name.rpartition(".")[0]] is decoder]
    return {end for stack in own for layer in stack.layers for end in _layer_ends(layer)}


def _layer_ends(model: nn.Module) -> set[str]:
    """Return the last parts of the names of layers: Zaya calls qkv_proj what only holds some."""
    linear = linear_layers(model)
    layers = [n for n, module in model.named_modules() if n in linear or module._parameters]
    return {name.rpartition(".")[2] for name in layers}


def no_targets(model: nn.Module) -> list[str]:
    """Return what all-linear leaves out.

    The head, what a method put inside a linear layer, and what torch reads past the module.
    """
    head = {name.rpartition(".")[0] for name in task_head(model)}
    inside = tuple(f"{name}." for name in (*linear_layers(model), *fused_attentions(model)))
    within = [name for name, _ in model.named_modules() if name.startswith(inside)]
    return sorted(head) + within + not_plain(model)


def not_plain(model: nn.Module) -> list[str]:
    """Return what has the features of a linear layer and does more, or less.

    Routers and grouped products; what the model reads the weight of and never calls.
    """
    linear, past = linear_layers(model), read_past(model)
    return [
        name
        for name, sizes in linear.items()
        if name in past or not maps_features(model.get_submodule(name), *sizes)
    ]


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
    elif (names := attention_names(model)) or getattr(config, "target_parameters", None):
        config.target_modules = names
    else:
        raise _no_usual_names(model)


def _no_usual_names(model: nn.Module) -> ValueError:
    ends = sorted({name.rpartition(".")[2] for name in _below_the_head(model)})
    if not ends:
        return ValueError(_NO_LINEAR)
    return ValueError(
        "none of its layers has a usual name of query and value: set target_modules, to "
        f"all-linear or to names (there are {', '.join(ends[:_SHOWN])})"
    )


def _below_the_head(model: nn.Module) -> set[str]:
    """Return the linear layers that a method of peft can adapt."""
    return set(linear_layers(model)).difference(no_targets(model))


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
    elif names is None:
        raise _no_usual_names(model)
    else:
        fused = len(names) == 1  # query, key and value in one
        keys = names if fused else [_KEY.sub(lambda q: "key" if q[1] else "k", n) for n in names]
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
    if not _below_the_head(model):
        raise ValueError(_NO_LINEAR)
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
