"""Files of tensors that other libraries wrote; a pickle only where it is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug import ArtifactError
from ftplug.context import one_line, read_tensors

if TYPE_CHECKING:
    import torch


def tensors_in(path: Path, *, allow_pickle: bool) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, or of a pickle that holds tensors alone.

    Raises :class:`ArtifactError` for a pickle that is not accepted, and for all else.
    """
    if path.suffix == ".safetensors":
        return _plain(read_tensors(path), path)
    if not allow_pickle:
        raise ArtifactError(
            f"{path}: a pickle: ask for safetensors, or accept it with --allow-pickle "
            "(allow_pickle=True), read through torch.load(weights_only=True)"
        )
    import torch

    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a stranger's pickle it may raise anything
        raise ArtifactError(f"{path}: not readable: {one_line(error)[:200]}") from error
    if not isinstance(held, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in held.items()
    ):
        raise ArtifactError(f"{path}: holds other things than tensors by name")
    return _plain(held, path)


def _plain(held: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """Refuse what a copy into a parameter would fail on, or lose a part of without a word."""
    import torch

    for name, tensor in held.items():
        odd = tensor.is_quantized or tensor.layout is not torch.strided or tensor.is_complex()
        if odd or tensor.is_meta or tensor.is_nested:
            kind = str(tensor.layout if tensor.layout is not torch.strided else tensor.dtype)
            raise ArtifactError(
                f"{path}: {name[:200]!a} is a tensor of {kind}: one of real numbers is expected"
            )
    return dict(held)
