"""A fingerprint of a model's weights: names, shapes and a fixed sample of values.

32 values per tensor at fixed places tell two checkpoints apart, in constant memory and in well
under a second for billions of parameters. Two digests are kept, of the values rounded to bfloat16
and to float16: whichever of the two a base was cast to, one of them stays what it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SAMPLE = 32


@dataclass(frozen=True)
class Fingerprint:
    """Digests of the same sample in two precisions (16 hex digits each)."""

    bf16: str
    fp16: str

    def matches(self, other: Fingerprint) -> bool:
        """Whether both can be the same weights, one of them possibly cast to half precision."""
        return self.bf16 == other.bf16 or self.fp16 == other.fp16

    def __str__(self) -> str:
        return f"{self.bf16}/{self.fp16}"


def fingerprint(tensors: Mapping[str, Tensor]) -> Fingerprint | None:
    """Return the fingerprint of named tensors, or None where their values are not at hand.

    Quantized, sharded and meta tensors have none: such bases are pinned by id and sha alone.
    """
    import torch

    samples = []
    header = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if (
            not tensor.is_floating_point()
            or tensor.is_meta
            or type(tensor.data) is not torch.Tensor
        ):
            return None
        header.update(f"{name}{tuple(tensor.shape)};".encode())
        samples.append(sample(tensor))
    if not samples:
        return None
    values = torch.cat(samples)

    def digest(dtype: torch.dtype) -> str:
        rounded = values.to(dtype).view(torch.int16).numpy().tobytes()
        return hashlib.sha256(header.digest() + rounded).hexdigest()[:16]

    return Fingerprint(digest(torch.bfloat16), digest(torch.float16))


def sample(tensor: Tensor) -> Tensor:
    """Return up to 32 values at fixed places, evenly spread over the tensor, as float32 on CPU."""
    import torch

    count = tensor.numel()
    places = torch.linspace(0, max(count - 1, 0), min(SAMPLE, count), dtype=torch.float64)
    return tensor.detach().reshape(-1)[places.long().to(tensor.device)].float().cpu()
