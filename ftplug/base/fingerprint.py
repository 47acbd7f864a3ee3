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

from ftplug.structure.shards import is_partitioned, shape_of, whole

if TYPE_CHECKING:
    import torch
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


@dataclass(frozen=True)
class Sampled:
    """The shape and type of a tensor, and what :func:`sample` takes of it."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor


def fingerprint(tensors: Mapping[str, Tensor]) -> Fingerprint | None:
    """Return the fingerprint of named tensors, or None where their values are not at hand.

    Quantized, sharded and meta tensors have none: such bases are pinned by id and sha alone. What
    DeepSpeed's ``zero.Init`` partitioned is gathered, for which all processes must call.
    """
    samples = sampled(tensors)
    return None if samples is None else fingerprint_of(samples)


def sampled(tensors: Mapping[str, Tensor]) -> dict[str, Sampled] | None:
    """Return what a fingerprint is made of, in the order of names, or None as that does."""
    import torch

    samples: dict[str, Sampled] = {}
    for name in sorted(tensors):  # the same in every process: it may gather
        tensor = tensors[name]
        if (
            not tensor.is_floating_point()
            or tensor.is_meta
            or type(tensor.data) is not torch.Tensor
        ):
            return None
        values = whole(tensor) if is_partitioned(tensor) else tensor
        samples[name] = Sampled(tuple(shape_of(tensor)), tensor.dtype, sample(values))
    return samples


def fingerprint_of(samples: Mapping[str, Sampled]) -> Fingerprint | None:
    """Return the fingerprint of tensors that were sampled, in the order of names."""
    import torch

    if not samples:
        return None
    header = hashlib.sha256()
    for name, tensor in samples.items():
        header.update(f"{name}{tensor.shape};".encode())
    values = torch.cat([tensor.values for tensor in samples.values()])

    def digest(dtype: torch.dtype) -> str:
        rounded = values.to(dtype).view(torch.int16).numpy().tobytes()
        return hashlib.sha256(header.digest() + rounded).hexdigest()[:16]

    return Fingerprint(digest(torch.bfloat16), digest(torch.float16))


def sample(tensor: Tensor) -> Tensor:
    """Return up to 32 values at fixed places, evenly spread over the tensor, as float32 on CPU."""
    import torch

    count = tensor.numel()
    places = torch.linspace(
        0, max(count - 1, 0), min(SAMPLE, count), dtype=torch.float64, device="cpu"
    )
    return tensor.detach().reshape(-1)[places.long().to(tensor.device)].float().cpu()
