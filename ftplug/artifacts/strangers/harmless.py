"""A stranger's configs, as far as they may be used: no code, no other weights, no great numbers.

All of them pass here: a manifest's config before a base is built by it, and the configs that lie in
an artifact before a method may read them, whoever wrote that method.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.artifacts.json_values import json_object
from ftplug.errors import ArtifactError, MethodError

if TYPE_CHECKING:
    from torch import nn

_MOST_LABELS = 10_000  # without names: more make a config slow to build
_MOST = 2**17  # of anything that a config counts, unless its base has half as many
_CHOOSES_CODE = {
    "attn_implementation",
    "auto_map",
    "auto_mapping",
    "custom_pipelines",
    "dtype",
    "experts_implementation",
    "fusion_config",
    "megatron_config",
    "quantization_config",
    "torch_dtype",
    "trust_remote_code",
}
_CHOOSES_WEIGHTS = {
    "backbone",
    "backbone_kwargs",
    "base_model_name_or_path",
    "name_or_path",
    "tokenizer_name_or_path",
    "transformers_weights",
    "use_pretrained_backbone",
    "use_timm_backbone",
}


def model_config(config: Any, own: Any, directory: Path) -> dict[str, Any]:
    """Return a stranger's config of a model with what the class of its base's config knows alone.

    ``own`` is the base's config, which the caller chose. What chooses code goes, what chooses other
    weights is the base's. Raises :class:`ArtifactError` for a count beyond all bounds.
    """
    if not isinstance(config, dict):
        raise ArtifactError(f"{directory}: its config is no JSON object")
    trusted, config = own.to_dict(), _without_choices(config, directory)
    _check_counts(config, trusted, directory)
    kept = _known(config, own)
    return kept | {name: trusted[name] for name in _CHOOSES_WEIGHTS & trusted.keys()}


def _known(config: dict[str, Any], own: Any) -> dict[str, Any]:
    """Leave out what the class of a config does not know, and what would hide its methods."""
    cls = type(own)
    known = {name for name in dir(cls) if not callable(getattr(cls, name, None))}
    known |= set(vars(own)) | set(own.to_dict()) | set(getattr(cls, "attribute_map", ()))
    for base in cls.__mro__:
        known |= set(getattr(base, "__annotations__", ()))
        known |= set(inspect.signature(base).parameters) if "__init__" in vars(base) else set()
    kept = {name: value for name, value in config.items() if name in known}
    for name in getattr(cls, "sub_configs", ()):
        part, trusted = kept.get(name), getattr(own, name, None)
        if isinstance(part, dict) and hasattr(trusted, "to_dict"):
            kept[name] = _known(part, trusted)
    return kept


def _without_choices(config: Any, directory: Path) -> Any:
    """Return a config without what chooses code, weights or how to load, at any depth.

    A kernel's name makes transformers fetch native code, a count of labels makes as many names.
    """
    if isinstance(config, list):
        return [_without_choices(part, directory) for part in config]
    if not isinstance(config, dict):
        return config
    count, names = config.get("num_labels"), config.get("id2label")
    if names is None and isinstance(count, int) and count > _MOST_LABELS:
        raise ArtifactError(f"{directory}: its config has {count:,} labels and names none of them")
    dropped = _CHOOSES_CODE | _CHOOSES_WEIGHTS | ({"num_labels"} if names is not None else set())
    return {
        name: _without_choices(value, directory)
        for name, value in config.items()
        if name not in dropped and not str(name).startswith("_")
    }


def _check_counts(config: Any, own: Any, directory: Path, name: str = "") -> None:
    """Refuse a number far beyond the one that the base's config has in its place."""
    if isinstance(config, dict):
        trusted = own if isinstance(own, Mapping) else {}
        for key, value in config.items():
            _check_counts(value, trusted.get(key), directory, str(key))
    elif isinstance(config, list):
        largest = max((n for n in own if isinstance(n, int)), default=0) if _listed(own) else own
        for value in config:
            _check_counts(value, largest, directory, name)
    elif isinstance(config, int) and abs(config) > max(
        _MOST, 2 * abs(own) if isinstance(own, int) else 0
    ):
        shown = f"{config:,}" if abs(config) < 10**18 else "more than 10^18"
        raise ArtifactError(f"{directory}: its config's {name[:80]!a} is {shown}, too many")


def _listed(own: Any) -> bool:
    return isinstance(own, list | tuple)


def place_config(written: bytes, source: Path, target: Path, model: nn.Module) -> None:
    """Write what a method may read of a config that lies in an artifact, ``written`` as it is.

    The config of a transformers model is that of the ``model`` at hand: the base was chosen by the
    caller. Any other goes without what chooses code, weights or how to load.
    """
    content = json_object(written, source)
    if target.name == "config.json" and {"model_type", "architectures"} & content.keys():
        target.write_text(_own_config(model, source), encoding="utf-8")
        return
    try:
        target.write_text(json.dumps(_without_choices(content, source)), encoding="utf-8")
    except RecursionError as error:
        raise ArtifactError(f"{source}: too deep for a config") from error


def _own_config(model: nn.Module, source: Path) -> str:
    try:
        return structure.pretrained(model).config.to_json_string(use_diff=False)
    except MethodError as error:
        raise ArtifactError(f"{source}: {error}") from error
