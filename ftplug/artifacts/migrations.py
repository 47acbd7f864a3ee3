"""Manifests of older versions, turned into what this version writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from ftplug.host import is_transient, migrated

SCHEMA = 2


def migrated_manifest(content: dict[str, Any], *, plugins: bool = True) -> dict[str, Any]:
    """Return a manifest's content in this version's schema; one of an unknown schema as it is.

    Each method's plugin knows which of its settings moved; with ``plugins=False`` none is asked.
    """
    schema = content.get("schema")
    while type(schema) is int and schema in MIGRATIONS:  # True is no schema
        content = MIGRATIONS[schema](content, plugins)
        schema = content["schema"]
    return content


def _from_1(content: dict[str, Any], plugins: bool) -> dict[str, Any]:
    """Settings that moved to another method, and which files a method wrote.

    What is malformed stays as it is, for whoever checks the manifest.
    """
    methods, files = content.get("methods"), content.get("files")
    if not isinstance(methods, list) or not isinstance(files, dict):
        return content | {"schema": 2}
    written = sorted(name for name in files if _was_of_a_method(name))
    methods = [_with_files(method, written) for method in methods]
    if not plugins:
        return content | {"schema": 2, "methods": methods}
    now = [new for method in methods for new in _now(method)]
    content = content | {"schema": 2, "methods": [m for m in now if not _trains_nothing(m)]}
    also = [{k: m[k] for k in ("name", "settings")} for m in now if _trains_nothing(m)]
    if also and isinstance(content.get("training", {}), dict):
        content["training"] = content.get("training", {}) | {"also": also}
    return content


def _with_files(entry: Any, written: list[str]) -> Any:
    known = not isinstance(entry, dict) or "files" in entry
    return entry if known else entry | {"files": written}


def _now(entry: Any) -> Iterable[Any]:
    """Yield what a recorded method is called now."""
    if not isinstance(entry, dict) or not isinstance(entry.get("settings"), dict):
        yield entry
        return
    for name, settings in migrated([(str(entry.get("name")), entry["settings"])]):
        yield entry | {"name": name, "settings": settings}


def _trains_nothing(entry: Any) -> bool:
    """Whether a run's record names the method, and not the list of methods."""
    return isinstance(entry, dict) and is_transient(str(entry.get("name")))


def _was_of_a_method(name: str) -> bool:
    """Whether a file was a method's or the host's, not a tokenizer's or processor's.

    Schema 1 did not say; methods wrote safetensors files and configs.
    """
    config = name == "config.json" or name.endswith("_config.json")
    return "safetensors" in name or (config and not re.search("token|processor", name))


# Schema n -> a function that turns such a manifest into one of schema n + 1, if need be by asking
# plugins.
MIGRATIONS: dict[int, Callable[[dict[str, Any], bool], dict[str, Any]]] = {1: _from_1}
