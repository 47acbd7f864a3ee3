"""peft's config of an adapter as a method and its settings; what has no setting is refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ftplug import ArtifactError, Method
from ftplug_plugins.alora import Alora
from ftplug_plugins.lora import Lora
from ftplug_plugins.lora_parts.settings import NO_MODULES
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_family import family, unlisted
from ftplug_plugins.peft_family.declared import method_name
from ftplug_plugins.prefix_tuning import PrefixTuning
from ftplug_plugins.prompt_tuning import PromptTuning

# Of every config: where the adapter is from, and what the model or the values themselves tell.
_ABOUT = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
    *("revision", "inference_mode", "modules_to_save", "num_transformer_submodules", "num_layers"),
    *("token_dim", "num_attention_heads", "tokenizer_name_or_path", "tokenizer_kwargs"),
    *("prompt_tuning_init", "prompt_tuning_init_text", "prompt_tuning_init_state_dict_path"),
    *("prompt_tuning_init_task", "encoder_reparameterization_type", "encoder_hidden_size"),
    *("encoder_num_layers", "encoder_dropout", "prefix_projection"),
    *("save_projection", "save_indices", "save_precomputed_indices"),
    *("progressbar", "generator_seed", "runtime_offload_base_weight", "layers_pattern"),
    # How the values started, or how peft computes them: they follow. A layer's own kind (Conv1D, or
    # not) says how its weight lies.
    "fan_in_fan_out",
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "low_cpu_mem_usage"),
}
_PATTERNS = ("exclude_modules", "layers_pattern")  # names of the targets say it
_OF_MODULES = (*_PATTERNS, "layers_to_transform")  # which peft asks of no parameter
_BY_TARGET = ("rank_pattern", "alpha_pattern")
_STARTS_FROM_BASE = {"pissa", "olora", "corda", "loftq", "lora_ga"}
# What the values say: which ranks are left; that a network computed them, which is not saved.
_SPENT = {
    "ADALORA": {"rank_pattern"},
    "PREFIX_TUNING": {"prefix_projection", "encoder_hidden_size"},
}


def method_for(config: Mapping[str, Any], targets: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the name of ftplug's method for peft's config, and its settings.

    ``targets`` are the modules that peft adapts: they take the place of patterns. Raises
    :class:`ArtifactError` naming a setting that the method does not have.
    """
    kind = str(config["peft_type"])
    cls = _class_of(kind, config)
    if reason := getattr(cls, "refused", ""):
        raise ArtifactError(f"{cls.name} cannot be adopted: {reason}")
    fields = {field.name for field in dataclasses.fields(cls)}
    given = {n: v for n, v in config.items() if n not in _SPENT.get(kind, ())}
    settings = {n: v for n, v in given.items() if n in fields and v is not None}
    if kind == "ADALORA":
        settings |= {"total_step": config.get("total_step")}
    if config.get("target_parameters") and not config.get("target_modules"):
        settings["target_modules"] = [NO_MODULES]  # empty would mean the usual ones here
    if "init_lora_weights" in settings:
        settings["init_lora_weights"] = _start(settings["init_lora_weights"])
    _name_targets(given, settings, targets)
    _refuse_rest(cls, kind, given, fields)
    return cls.name, _typed(cls, settings)


def _class_of(kind: str, config: Mapping[str, Any]) -> Any:
    if kind == "LORA":
        return Alora if config.get("alora_invocation_tokens") else Lora
    # Of p-tuning peft's file holds what the network computed: vectors, as of prompt-tuning.
    own: dict[str, type[Method]] = {
        "PREFIX_TUNING": PrefixTuning, "PROMPT_TUNING": PromptTuning, "P_TUNING": PromptTuning,
    }  # fmt: skip
    name = method_name(kind)
    if kind in own:
        return own[kind]
    return family.build(name) if name in family.types() else unlisted.build(name)


def _start(start: Any) -> Any:
    """Return a start that leaves the base as it is; the values follow whatever it was."""
    kind = str(start).lower().partition("_niter_")[0]
    if kind in _STARTS_FROM_BASE:
        raise ArtifactError(
            f"init_lora_weights={start!s:.40}: peft changes the base's weights when it loads this: "
            "convert it to plain LoRA where it was trained (peft's save_pretrained("
            "path_initial_model_for_weight_conversion=…)) and adopt that"
        )
    return True if kind == "eva" else start


def _name_targets(config: Mapping[str, Any], settings: dict[str, Any], targets: list[str]) -> None:
    """Put the names of the adapted modules in the place of a pattern, or of names of nothing.

    peft passes over names, layers and patterns that this base has not; ftplug refuses them.
    """
    asked = config.get("target_modules")
    if settings.get("target_modules") == [NO_MODULES]:
        _drop(settings, _OF_MODULES)
    patterns = isinstance(asked, str) or any(config.get(name) for name in _PATTERNS)
    if "target_modules" in settings and targets and (patterns or _of_nothing(config, targets)):
        settings["target_modules"] = targets
        _drop(settings, _OF_MODULES)
    elif isinstance(asked, str) and "target_modules" in settings:
        settings["target_modules"] = asked
    if not targets or config.get("target_parameters"):
        return
    for name in _BY_TARGET:
        if isinstance(given := settings.get(name), Mapping):
            settings[name] = {k: v for k, v in given.items() if _fits(str(k), targets)}
    if isinstance(given := settings.get("feedforward_modules"), list):
        settings["feedforward_modules"] = [name for name in given if _ends(str(name), targets)]


def _drop(settings: dict[str, Any], names: Iterable[str]) -> None:
    for name in names:
        settings.pop(name, None)


def _of_nothing(config: Mapping[str, Any], targets: list[str]) -> bool:
    """Whether a name, or a layer, that the config asks for has no target."""
    asked, layers = config.get("target_modules"), config.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers or ()
    there = {part for name in targets for part in name.split(".")}
    return any(not _ends(str(name), targets) for name in asked or ()) or any(
        str(layer) not in there for layer in layers
    )


def _ends(end: str, targets: list[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for name in targets)


def _fits(pattern: str, targets: list[str]) -> bool:
    """Whether a key of peft's patterns means a target; they were all tried within a time limit."""
    return any(re.match(rf"(.*\.)?({pattern})$", name) for name in targets)


def _refuse_rest(
    cls: type[Method], kind: str, config: Mapping[str, Any], fields: Iterable[str]
) -> None:
    """Refuse what the config asks for and the method has no setting for."""
    plain = _defaults(versions.configs()[kind])
    rest = [
        name
        for name, value in config.items()
        if name not in _ABOUT and name not in fields and value and value != plain.get(name)
    ]
    if rest:
        asked = ", ".join(f"{name}={config[name]!a:.60}" for name in sorted(rest))
        raise ArtifactError(
            f"ftplug's {cls.name} has no setting for {asked} of peft's {kind}: "
            "use it by PeftModel.from_pretrained"
        )


def _defaults(config: Any) -> dict[str, Any]:
    return {
        field.name: field.default_factory()
        if field.default_factory is not dataclasses.MISSING
        else field.default
        for field in dataclasses.fields(config)
    }


def _typed(cls: type[Method], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings without those at their default; 16.0 of a whole number as 16."""
    plain = cls.defaults()
    for name, value in settings.items():
        if isinstance(value, float) and value.is_integer() and type(plain.get(name)) is int:
            settings[name] = int(value)
    return {n: v for n, v in settings.items() if n not in plain or v != plain[n]}
