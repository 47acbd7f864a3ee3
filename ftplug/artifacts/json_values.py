"""JSON that artifacts hold: facts as its values, and objects read from files of anybody."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftplug.errors import ArtifactError, one_line

LARGEST_CONFIG = 2**24  # bytes


def json_values(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as JSON values: numpy's and torch's scalars as numbers, NaN and inf left out."""
    cleaned = {str(name): _json_value(value) for name, value in facts.items()}
    return {name: value for name, value in cleaned.items() if value is not None}


def _json_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return json_values(value)
    if isinstance(value, list | tuple | set):
        return [item for item in map(_json_value, value) if item is not None]
    if getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def read_object(path: Path, *, largest: float = LARGEST_CONFIG) -> dict[str, Any]:
    """Return the JSON object in a file of at most ``largest`` bytes.

    Raises an ArtifactError that names the file for everything else.
    """
    try:
        if (size := path.stat().st_size) > largest:
            raise ArtifactError(f"{path}: {size:,} bytes are too many for a JSON object")
        written = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: not readable as JSON: {one_line(error)}") from error
    return json_object(written, path)


def json_object(written: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON object that was read from a file, or raise what :func:`read_object` does."""
    try:
        content = json.loads(written.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: a JSON object is expected")
    return content
