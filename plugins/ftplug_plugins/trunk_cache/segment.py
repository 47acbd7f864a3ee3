"""A file of a shared cache: hidden states of some examples, under a name that is their digest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.context import one_line
from ftplug_plugins.trunk_cache.identity import raw

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SUFFIX = ".safetensors"
UNFINISHED = ".part"


class DamagedError(Exception):
    """A file that is not what its name says, or not this user's: why."""

    def __init__(self, why: str, *, ours: bool = True) -> None:
        super().__init__(why)
        self.ours = ours  # written by this user, who may remove it


@dataclass(frozen=True)
class Segment:
    """``examples``: (tokens, width) by key, mapped from a file; processes share its pages."""

    path: Path
    size: int  # bytes of the file
    computed_in: torch.dtype  # what the trunk gave
    stored_in: torch.dtype  # what that was rounded to
    examples: Mapping[bytes, Tensor]


def write(
    folder: Path, key: str, examples: Mapping[bytes, Tensor], computed_in: torch.dtype
) -> Path:
    """Write examples (tokens, width) of the trunk ``key``, and publish them by a rename.

    The data are not forced to disk: a file that a crash leaves empty is not what its name says.
    """
    import torch
    from safetensors.torch import save

    tensors = {
        "keys": torch.frombuffer(bytearray(b"".join(examples)), dtype=torch.uint8).view(
            len(examples), -1
        ),
        "lengths": torch.tensor([len(states) for states in examples.values()]),
        "states": torch.cat(list(examples.values())),
    }
    said = str(computed_in).removeprefix("torch.")
    target = folder / f"{_digest(key, said, tensors)}{SUFFIX}"
    unfinished = target.with_suffix(UNFINISHED)
    try:
        unfinished.write_bytes(save(tensors, {"computed_in": said}))
        os.replace(unfinished, target)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    return target


def read(path: Path, key: str) -> Segment:
    """Map a file and compare all of it with its name.

    Raises :class:`DamagedError` where they differ or another user wrote it, and
    :class:`FileNotFoundError` where it has gone.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise DamagedError("another user wrote it", ours=False)
    try:
        with torch.inference_mode(False), safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in ("keys", "lengths", "states")}
            said = file.metadata()["computed_in"]
        if f"{_digest(key, said, tensors)}{SUFFIX}" != path.name:
            raise DamagedError("its content is not what its name says")
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise DamagedError(one_line(error)) from error
    packed, width = tensors["keys"].numpy().tobytes(), tensors["keys"].shape[1]
    keys = [packed[start : start + width] for start in range(0, len(packed), width)]
    parts: Iterable[Tensor] = tensors["states"].split(tensors["lengths"].tolist())
    examples = dict(zip(keys, parts, strict=True))
    return Segment(path, status.st_size, getattr(torch, said), tensors["states"].dtype, examples)


def _digest(key: str, computed_in: str, tensors: Mapping[str, Tensor]) -> str:
    """Return 40 hex digits: of other weights, or another cut, the same bytes are another file."""
    digest = hashlib.sha256(f"{key} {computed_in}".encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(raw(tensor))
    return digest.hexdigest()[:40]
