"""A safetensors file read through one descriptor, each tensor into memory of its own.

The library maps a file by its name, so that whoever replaces the file, or writes to it, replaces
what was hashed before. Here the bytes that are hashed are those that become tensors. The library's
parser wants a name or a whole file in memory: the header is checked here by its rules
(https://github.com/huggingface/safetensors#format), and its types come from the library.
"""

from __future__ import annotations

import functools
import json
import math
import sys
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.errors import ArtifactError, one_line
from ftplug.files.hashed import HashedFile

if TYPE_CHECKING:
    import pydantic
    import torch
    from torch import Tensor

_LARGEST_HEADER = 2**25  # bytes: 200,000 tensors with long names
_METADATA = "__metadata__"
_Count = Annotated[int, Ge(0), Le(2**60)]


class _Entry(TypedDict):
    """A tensor as the header describes it; offsets count from the header's end."""

    dtype: str
    shape: Annotated[list[_Count], Len(0, 64)]
    data_offsets: Annotated[list[_Count], Len(2, 2)]


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a safetensors file, on the CPU, and its metadata."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]


verified: ContextVar[Mapping[Path, Callable[[], TensorFile]]] = ContextVar("verified")
"""While an artifact is read: by its name, what reads a file and compares it with the manifest."""


def read_tensor_file(file: HashedFile) -> TensorFile:
    """Read a file from its start; one that is no safetensors file is an ArtifactError."""
    entries, metadata = _header(file)
    tensors: dict[str, Tensor] = {}
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1]["data_offsets"]):
        tensors[name] = _tensor(file, name, entry)
    return TensorFile({name: tensors[name] for name in entries}, metadata)


def _header(file: HashedFile) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Return the header's entries and metadata; the tensors fill the rest without a gap."""
    length = int.from_bytes(file.read(8), "little") if file.size >= 8 else file.size
    if length > min(file.size - 8, _LARGEST_HEADER):
        raise _malformed(file, f"a header of {length:,} bytes")
    text = file.read(length)
    try:
        content = json.loads(text, object_pairs_hook=_once)
        metadata = dict(content.pop(_METADATA, None) or {})
        entries = _adapter().validate_python(content, strict=True)
    except (ValueError, RecursionError, AttributeError, TypeError) as error:
        raise _malformed(file, f"its header: {one_line(error)[:200]}") from None
    if not all(isinstance(text, str) for text in metadata.values()):
        raise _malformed(file, "its metadata are no texts")
    end = 0
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        if start != end or stop < start:
            raise _malformed(file, f"tensor {name!a} at {start}, where {end} is expected")
        end = stop
    if end != file.size - file.position:
        raise _malformed(file, f"{file.size - file.position:,} bytes of tensors, not {end:,}")
    return entries, metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands there twice")
    return found


@functools.cache
def _adapter() -> pydantic.TypeAdapter[dict[str, _Entry]]:
    import pydantic

    return pydantic.TypeAdapter(dict[str, _Entry])


def _tensor(file: HashedFile, name: str, entry: _Entry) -> Tensor:
    """Read one tensor's bytes, which come next, into memory of its own."""
    import torch

    dtype, (start, stop) = _types().get(entry["dtype"]), entry["data_offsets"]
    if dtype is None:
        raise _malformed(file, f"tensor {name!a} holds {entry['dtype'][:40]!a}, an unknown type")
    if math.prod(entry["shape"]) * dtype.itemsize != stop - start:
        raise _malformed(file, f"tensor {name!a} has another size than its shape says")
    raw = torch.empty(stop - start, dtype=torch.uint8)
    file.readinto(raw.numpy().data)
    if sys.byteorder == "big":  # files are little-endian
        part = dtype.itemsize // (2 if dtype.is_complex else 1)
        raw = raw.view(-1, part).flip(1).flatten()
    return raw.view(dtype).view(entry["shape"])


@functools.cache
def _types() -> dict[str, torch.dtype]:
    """Return torch's types by their names in files: all that the library writes."""
    import torch
    from safetensors import deserialize
    from safetensors.torch import save

    found: dict[str, torch.dtype] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's words on types that it means to drop
        for dtype in {value for value in vars(torch).values() if isinstance(value, torch.dtype)}:
            try:
                of_one = save({"": torch.empty(0, dtype=dtype)})
                [(_, written)] = deserialize(of_one)  # type: ignore[no-untyped-call]
            except Exception:  # whatever it raises for a type that files do not have
                continue
            found[written["dtype"]] = dtype
    return found


def _malformed(file: HashedFile, what: str) -> ArtifactError:
    return ArtifactError(f"{file.path}: not readable as safetensors: {what}")
