"""The probe's file: a small safetensors file with a JSON text in it, everything bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.errors import ArtifactError, one_line
from ftplug.files.hashed import HashedFile
from ftplug.files.tensor_file import read_tensor_file, verified

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug.files.tensor_file import TensorFile

LARGEST = 2**16  # bytes
_ABOUT = "ftplug_probe"  # the one entry of the file's metadata
_DEEPEST = 8  # lists and objects in one another
_STRING = re.compile(r'"(?:[^"\\]|\\.?)*"?', re.DOTALL)  # of JSON, or one without an end


def write_probe_file(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON object; one over 64 KiB is an ArtifactError, nothing written."""
    from safetensors.torch import save

    text = json.dumps(about, separators=(",", ":"), sort_keys=True, allow_nan=False)
    content = save(dict(tensors), metadata={_ABOUT: text})
    if len(content) > LARGEST:
        raise ArtifactError(f"{path.name}: {len(content):,} bytes, where a probe has {LARGEST:,}")
    path.write_bytes(content)


def read_probe_file(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return tensors, on the CPU, and the JSON value; an ArtifactError says what is off.

    Nothing larger than the file is made: what the header says of sizes must fit its bytes.
    """
    found = _read(path)
    text = found.metadata.get(_ABOUT)
    if text is None:
        raise ArtifactError(f"{path}: no probe of ftplug: its metadata lack {_ABOUT!r}")
    if _depth(text) > _DEEPEST:
        raise ArtifactError(f"{path}: its metadata are nested more than {_DEEPEST} deep")
    try:
        return found.tensors, json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ArtifactError(f"{path}: its metadata: {one_line(error)[:200]}") from None


def _read(path: Path) -> TensorFile:
    if (listed := verified.get({}).get(path)) is not None:
        _refuse_large(path, path.stat().st_size)
        return listed()
    try:
        with HashedFile(path) as file:
            _refuse_large(path, file.size)
            return read_tensor_file(file)
    except OSError as error:
        raise ArtifactError(f"{path}: not readable: {one_line(error)}") from error


def _refuse_large(path: Path, size: int) -> None:
    if size > LARGEST:
        raise ArtifactError(f"{path}: {size:,} bytes, where a probe has at most {LARGEST:,}")


def _depth(text: str) -> int:
    """Return how deep brackets are nested, but for those in strings: a model may write them."""
    depth = deepest = 0
    for character in _STRING.sub("", text):
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")
