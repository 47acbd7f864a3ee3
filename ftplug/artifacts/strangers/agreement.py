"""Manifest and ``adapter_config.json``: two descriptions of one adapter, which must agree.

ftplug loads by the one, peft by the other: who checks an artifact by one must not be given another
by the next reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftplug.artifacts.json_values import json_object
from ftplug.errors import ArtifactError

ADAPTER_CONFIG = "adapter_config.json"
# A word for all of a kind becomes names; how a layer's weight lies (GPT-2's Conv1D) the layer says.
_CHOSEN_LATER = ("target_modules", "exclude_modules", "fan_in_fan_out")


def check_agreement(
    methods: list[Any], base: Mapping[str, Any], written: bytes | None, directory: Path
) -> None:
    """Refuse an ``adapter_config.json`` that no method wrote, or that differs from the manifest.

    ``written`` is what the file holds, None where there is none. Compared are the base and the
    settings that both have, names in place of patterns. What a method leaves open (None, an empty
    list, 0) peft has filled in; ``pissa`` and ``olora`` write LoRA of twice the rank, with the
    scale that fits it.
    """
    if written is None:
        return
    path = directory / ADAPTER_CONFIG
    owner = next((m for m in methods if ADAPTER_CONFIG in m.get("files", ())), None)
    if owner is None:
        raise ArtifactError(f"{path}: none of the manifest's methods wrote it: who reads it loads "
                            "another adapter")  # fmt: skip
    config = json_object(written, path)
    for ours, theirs in (("id", "base_model_name_or_path"), ("revision", "revision")):
        if config.get(theirs) not in (None, "", base.get(ours)):
            _refuse(path, theirs, config[theirs], base.get(ours))
    settings = owner["settings"] | owner.get("resolved", {})
    doubled = {"r", "lora_alpha"} <= settings.keys() and _twice(settings["r"], config.get("r"))
    for name, value in settings.items():
        if name not in config or name in _CHOSEN_LATER or not _comparable(value):
            continue
        if doubled and name in ("r", "lora_alpha", "use_rslora"):
            continue
        if config[name] != value or isinstance(config[name], bool) != isinstance(value, bool):
            _refuse(path, name, config[name], value)


def _comparable(value: Any) -> bool:
    """Whether a setting says something by itself: not an open one, nor names that are resolved."""
    return isinstance(value, bool | str | float) or (isinstance(value, int) and value != 0)


def _twice(half: Any, whole: Any) -> bool:
    return isinstance(half, int) and isinstance(whole, int) and whole == 2 * half


def _refuse(path: Path, name: str, theirs: Any, ours: Any) -> None:
    shown = [ascii(value if len(str(value)) <= 60 else f"{str(value)[:60]}...")
             for value in (name, theirs, ours)]  # fmt: skip
    raise ArtifactError(f"{path}: {shown[0]} is {shown[1]}, but {shown[2]} in the manifest: "
                        "two descriptions of one adapter")  # fmt: skip
