"""Settings as peft's own config classes declare them: types, defaults, one line of help each.

``types.json`` is made of this (``tools/peft_generate.py``), and so is a type that it does not list.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import types
import typing
from typing import Any, Literal

# What the host decides: which modules are saved, and how; what the model itself tells.
_HOSTS = {
    "modules_to_save",
    "token_dim",
    "num_transformer_submodules",
    "num_attention_heads",
    "num_layers",
    "save_projection",
    "save_indices",
    "save_precomputed_indices",
    "save_only_topk_weights",
    "progressbar",
    "generator_seed",  # a generator of its own, whose state no checkpoint holds
    "runtime_offload_base_weight",
    "target_svd_config",
    # Starts read from files and texts, which an artifact could not name.
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "prompt_tuning_init_state_dict_path",
    "prompt_tuning_init_task",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
}
# AdaLoRA's config inherits LoRA's, most of which its layers never read.
_ADALORA = {
    "target_modules", "exclude_modules", "lora_alpha", "lora_dropout", "fan_in_fan_out", "bias",
    "layers_to_transform", "layers_pattern", "target_r", "init_r", "tinit", "tfinal", "deltaT",
    "beta1", "beta2", "orth_reg_weight", "total_step",
}  # fmt: skip
# Required by peft, which has no default for them.
_DEFAULTS = {"num_virtual_tokens": 20, "adapter_len": 10}
_HELP = {
    "adalora.beta1": "Decay of the average importance.",
    "adalora.beta2": "Decay of the average change of importance.",
    "adalora.deltaT": "Steps between two prunings.",
    "adalora.init_r": "Rank of every update at the start.",
    "adalora.orth_reg_weight": "Weight of the orthogonality penalty in the loss.",
    "adalora.target_r": "Average rank of an update at the end.",
    "adalora.tfinal": "Last steps, in which nothing more is pruned.",
    "adalora.tinit": "First steps, in which nothing is pruned.",
    "adalora.total_step": "Optimizer steps of the run; none: what the Trainer will take.",
    "adaption-prompt.adapter_layers": "How many layers, from the top; none: all of them.",
    "adaption-prompt.adapter_len": "How many prompt tokens.",
    "ia3.feedforward_modules": "Those of the targets whose input is scaled, not their output.",
    "multitask-prompt-tuning.num_ranks": "Rank of each task's scaling.",
    "multitask-prompt-tuning.num_tasks": "How many tasks; more than one need task_ids.",
    "lora_alpha": "Scale of the update.",
    "lora_dropout": "Dropout before A.",
    "num_virtual_tokens": "How many virtual tokens.",
    "c3a.init_weights": "Initialisation; true starts at zero.",
    "miss.init_weights": "True for MiSS, bat or mini for its variants.",
    "target_modules": "Ends of module names, or a regular expression; none: what suits the model.",
    "exclude_modules": "Ends of module names, or a regular expression, to leave out.",
    "fan_in_fan_out": "Whether the target stores its weight as (fan_in, fan_out), as Conv1D does.",
    "layers_to_transform": "Indices of the layers to adapt; none: all of them.",
    "layers_pattern": "Name of the list of layers, where layers_to_transform does not find it.",
    "bias": "Which biases train as well: none, all, or those of the targets (METHOD_only).",
}


class Unwritable(TypeError):
    """A type of which no value is JSON."""


def method_name(peft_type: str) -> str:
    """Return ``trainable-tokens`` for ``TRAINABLE_TOKENS``."""
    return peft_type.lower().replace("_", "-")


def class_name(name: str) -> str:
    """Return ``TrainableTokens`` for ``trainable-tokens``."""
    return "".join(part.capitalize() for part in name.split("-"))


def settings_of(kind: str, config: Any) -> dict[str, dict[str, Any]]:
    """Return ``{setting: {"type": …, "default": …, "help": …}}`` of a type's config class.

    What the host decides is left out, and what no JSON value can say. A setting that peft requires
    has no default.
    """
    import peft

    common = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    hints = typing.get_type_hints(config)
    found: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(config):
        wanted = kind != "ADALORA" or field.name in _ADALORA
        if field.name in common | _HOSTS or not wanted or not field.init:
            continue
        try:
            text = type_text(hints[field.name])
        except Unwritable:
            continue
        default = _DEFAULTS.get(field.name, _default(field))
        if default is None and "None" not in text.split(" | "):
            text += " | None"
        help_text = _help(method_name(kind), field, config)
        row = {"type": text, "default": default, "help": help_text}
        found[field.name] = {n: v for n, v in row.items() if v is not dataclasses.MISSING}
    return found


def left_out(kind: str, config: Any) -> list[str]:
    """Return the settings that no JSON value can say: peft's defaults hold for them."""
    import peft

    common = {field.name for field in dataclasses.fields(peft.PeftConfig)} | _HOSTS
    fields = [field.name for field in dataclasses.fields(config) if field.init]
    return [name for name in fields if name not in common | settings_of(kind, config).keys()]


def type_text(hint: Any) -> str:
    """Return a setting's type as its annotation reads: lists are tuples, enums their values."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "None"
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, arguments))}]"
    if origin in (typing.Union, types.UnionType):
        enums = [a for a in arguments if isinstance(a, type) and issubclass(a, enum.Enum)]
        parts = [a for a in arguments if not (enums and a is str)]  # the enum names the strings
        # Python keeps one order of equal unions, whichever was written first in the process.
        return " | ".join(sorted({type_text(part) for part in parts}, key=_place))
    if origin is list and typing.get_origin(arguments[0]) is not tuple:
        return f"tuple[{type_text(arguments[0])}, ...]"
    if hint is dict or origin is dict:
        value = type_text(arguments[1]) if arguments else "Any"
        return f"dict[str, {value}]"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return f"Literal[{', '.join(repr(member.value) for member in hint)}]"
    if hint in (int, float, bool, str):
        return str(hint.__name__)
    raise Unwritable(hint)


def _place(text: str) -> tuple[bool, bool, str]:
    return text == "None", not text.startswith("tuple"), text.lower()


def _default(field: Any) -> Any:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    return value.value if isinstance(value, enum.Enum) else value


def _help(method: str, field: Any, config: Any) -> str:
    """Return the first sentence of peft's help, or of the config's docstring."""
    for key in (f"{method}.{field.name}", field.name):
        if key in _HELP:
            return _HELP[key]
    text = field.metadata.get("help") or _documented(config, field.name)
    text = "".join(text) if isinstance(text, tuple) else text
    text = re.sub(r"<[^>]+>|[`']{2}|`", "", " ".join(text.split()))
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    text = text or field.name.replace("_", " ")
    first = re.split(r"(?<!e\.g)(?<!i\.e)(?<!vs)\.(?=\s|[A-Z(]|$)", text)[0].strip()
    return f"{first[0].upper()}{first[1:]}."


def _documented(config: Any, name: str) -> str:
    entry = re.search(
        rf"^\s+{name} \(.*?\):(.*?)(?=^\s+\w+ \(|\Z)", config.__doc__ or "", re.M | re.S
    )
    return entry[1] if entry else name.replace("_", " ")
