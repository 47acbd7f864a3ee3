"""Facts as JSON values, as manifests hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


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
