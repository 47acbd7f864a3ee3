"""Counts in an adapter's config: none may be far beyond what its tensors hold.

A rank of a billion is refused by its tensors' shapes only once something of that size is there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftplug.errors import ArtifactError, one_line

_MOST = 2**14
# Whole numbers that count nothing: seeds, steps of a schedule, ids of tokens.
_NO_COUNT = re.compile(r".*(seed|step|prng|token_id).*|tinit|tfinal|deltaT")


def check_counts(config: Mapping[str, Any], largest: int, where: Path) -> None:
    """Refuse a number above ``largest``, the longest side of its tensors, and above 16,384."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            check_counts(value, largest, where)
        elif not isinstance(value, int | float) or _NO_COUNT.fullmatch(str(name)):
            continue
        elif abs(value) > max(_MOST, largest):
            shown = f"{value:,}" if abs(value) < 10**18 else "more than 10^18"
            raise ArtifactError(
                f"{where}: {str(name)[:80]!a} is {shown}, far more than its tensors hold"
            )


def longest_side(path: Path) -> int:
    """Return the longest side of all tensors in a file; of a pickle, what its size allows.

    Only the header of a safetensors file is read.
    """
    from safetensors import SafetensorError, safe_open

    if path.suffix != ".safetensors":
        return path.stat().st_size
    try:
        with safe_open(path, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not readable as safetensors: {one_line(error)}") from error
    return max((side for shape in shapes for side in shape), default=0)
