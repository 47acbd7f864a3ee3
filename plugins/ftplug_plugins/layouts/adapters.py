"""Adapters of AdapterHub's library ``adapters``: its bottleneck and its LoRA, with a plain head.

``adapter_config.json`` has the settings under ``config``; the tensors are in
``adapter.safetensors`` or ``pytorch_adapter.bin``, a head in ``model_head.safetensors``
or ``pytorch_model_head.bin`` (https://github.com/adapter-hub/adapters, src/adapters/loading.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import ArtifactError
from ftplug_plugins.layouts.bottlenecks import BottleneckAdapter
from ftplug_plugins.layouts.converted import LoraFile, number, whole_number
from ftplug_plugins.layouts.files import tensors_in

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug_plugins.layouts.plain_peft import PlainPeft

_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.bin")
_HEADS = ("model_head.safetensors", "pytorch_model_head.bin")
_HEAD_CONFIG = "head_config.json"
# Of LoRA, what must be so that it is peft's; all else says where it stands, or how it started.
_LORA = {
    "composition_mode": "add",
    "use_gating": False,
    "use_dora": False,
    "vera_d": None,
    "vera_b": None,
}
_FAULTY = (1, 1)  # before this version LoRA was not multiplied by alpha / r


def recognises(directory: Path, config: Mapping[str, Any]) -> bool:
    """Whether a folder holds what ``adapters`` saves."""
    return "peft_type" not in config and "model_type" in config and "config" in config


def read(
    directory: Path, config: Mapping[str, Any], workspace: Path, *, allow_pickle: bool
) -> PlainPeft | BottleneckAdapter:
    """Read a bottleneck as ftplug's own method; write LoRA anew for peft."""
    settings = config["config"]
    if not isinstance(settings, Mapping):
        raise ArtifactError(f"{directory}: its config is no JSON object: of an AdapterFusion?")
    held = _tensors(directory, _WEIGHTS, allow_pickle)
    if held is None:
        raise ArtifactError(f"{directory}: neither {' nor '.join(_WEIGHTS)}")
    head, model_class = _head(directory, allow_pickle)
    version = config.get("version")
    by = version.replace(".", " ", 1) if isinstance(version, str) else "adapters"
    about = {
        "base_model_name_or_path": _text(config.get("model_name")),
        "auto_mapping": {"base_model_class": model_class or _text(config.get("model_class"))},
    }
    architecture = settings.get("architecture")
    if architecture == "lora":
        file = _lora(directory, config, settings, held, head)
        return file.written(workspace, title=f"a LoRA adapter of {by:.40}", about=about)
    if architecture is not None:
        raise ArtifactError(
            f"{directory}: adapters' {architecture!a:.40} is not read here: bottleneck and lora are"
        )
    return BottleneckAdapter.of(
        directory, settings, held, head, title=f"a bottleneck adapter of {by:.40}", about=about
    )


def _tensors(
    directory: Path, names: tuple[str, ...], allow_pickle: bool
) -> dict[str, Tensor] | None:
    path = next((directory / name for name in names if (directory / name).is_file()), None)
    return None if path is None else tensors_in(path, allow_pickle=allow_pickle)


def _head(directory: Path, allow_pickle: bool) -> tuple[dict[str, Tensor], str | None]:
    """Return the head of a model class of transformers, and that class; none is none."""
    held = _tensors(directory, _HEADS, allow_pickle)
    if held is None:
        return {}, None
    try:
        config = json.loads((directory / _HEAD_CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{directory}: a head without a readable {_HEAD_CONFIG}") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{directory}: {_HEAD_CONFIG}: a JSON object is expected")
    if isinstance(flexible := config.get("config"), dict):
        raise ArtifactError(
            f"{directory}: its prediction head ({flexible.get('head_type')!a:.40}) is one of "
            "adapters' own, which no class of transformers has: to adopt the adapter without it, "
            f"name a copy of the folder that has no {_HEAD_CONFIG} and no head beside it"
        )
    return held, _text(config.get("model_class"))


def _lora(
    directory: Path,
    config: Mapping[str, Any],
    settings: Mapping[str, Any],
    held: Mapping[str, Tensor],
    head: dict[str, Tensor],
) -> LoraFile:
    for name, value in _LORA.items():
        if settings.get(name, value) != value:
            raise ArtifactError(
                f"{directory}: adapters' LoRA with {name}={settings[name]!a:.40} is no LoRA of peft"
            )
    rank = whole_number(settings.get("r"), f"{directory}: r")
    alpha = number(settings.get("alpha", rank), f"{directory}: alpha")
    if _is_faulty(config.get("version")):
        alpha = float(rank)
    parts: dict[str, dict[str, Tensor]] = {"lora_A": {}, "lora_B": {}}
    for key, tensor in held.items():
        found = re.fullmatch(r"(.+)\.loras\.[^.]+\.(lora_A|lora_B)", key)
        if found is None:
            raise ArtifactError(f"{directory}: {key[:80]!a} is no tensor of a LoRA that peft has")
        if found[1] in parts[found[2]]:
            raise ArtifactError(f"{directory}: {key[:80]!a} is of a second adapter in one file")
        parts[found[2]][found[1]] = tensor
    a, b = parts.values()
    if not a or a.keys() != b.keys():
        raise ArtifactError(f"{directory}: lora_A or lora_B of a module is missing")
    pairs = {name: (a[name], b[name]) for name in a}
    dropout = number(settings.get("dropout", 0.0), f"{directory}: dropout")
    return LoraFile(pairs, rank, alpha / rank, dropout, whole=head)


def _is_faulty(version: Any) -> bool:
    """Whether it was trained when the library scaled by 1: it reads such ones so itself."""
    found = re.match(r"adapters\.(\d+)\.(\d+)", str(version))
    return found is not None and (int(found[1]), int(found[2])) < _FAULTY


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
