"""How an evaluated example is known: by a keyed hash of its inputs and labels, padding left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_MASK, _DECODER = "attention_mask", "decoder_"
_IGNORED = -100  # what pads labels


def contents(inputs: Mapping[str, Any], rows: int, labels: Collection[str]) -> list[bytes]:
    """Return what each example of a batch is, as bytes; equal examples give equal bytes.

    ``inputs`` are a batch's: tensors of (rows, …), and lists of ``rows`` texts or numbers. What
    their attention masks of (rows, length) say is padding is left out, and so are the -100 on
    either side of labels.
    """
    tensors = {
        name: value.detach().cpu()
        for name, value in sorted(inputs.items())
        if isinstance(value, Tensor) and value.ndim and len(value) == rows
    }
    texts = {
        name: value
        for name, value in sorted(inputs.items())
        if isinstance(value, list | tuple) and len(value) == rows
        if all(isinstance(item, str | int | float) for item in value)
    }
    found = []
    for row in range(rows):
        parts = [_part(name, tensor) for name, tensor in _unpadded(tensors, row, labels)]
        parts += [f"{name} {value[row]!r}".encode() for name, value in texts.items()]
        found.append(b"".join(len(part).to_bytes(8, "big") + part for part in parts))
    return found


def _unpadded(
    tensors: Mapping[str, Tensor], row: int, labels: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield an example's tensors without their padding."""
    masks = {n.removesuffix(_MASK): t for n, t in tensors.items() if n.endswith(_MASK)}
    masks = {prefix: mask for prefix, mask in masks.items() if mask.ndim == 2}
    spans = {tensors[n].shape: _span(tensors[n][row]) for n in labels if n in tensors}
    for name, tensor in tensors.items():
        value = tensor[row]
        if name in labels:
            value = value[slice(*spans[tensor.shape])] if value.ndim else value
        elif (mask := _mask_of(name, tensor, masks)) is not None:
            value = value[mask[row].bool()]
        elif value.ndim and tensor.shape in spans:  # decoder inputs, made of the labels
            value = value[: spans[tensor.shape][1]]
        yield name, value


def _mask_of(name: str, tensor: Tensor, masks: Mapping[str, Tensor]) -> Tensor | None:
    """Return the mask whose prefix a tensor's name has; a decoder's is never the encoder's."""
    prefixes = sorted((p for p in masks if name.startswith(p)), key=len, reverse=True)
    if name.startswith(_DECODER):
        prefixes = [prefix for prefix in prefixes if prefix.startswith(_DECODER)]
    return next((masks[p] for p in prefixes if masks[p].shape == tensor.shape[:2]), None)


def _span(labels: Tensor) -> tuple[int, int]:
    """Return where an example's labels begin and end, without the -100 on either side."""
    if labels.ndim != 1:
        return 0, len(labels) if labels.ndim else 0
    kept = (labels != _IGNORED).nonzero()
    return (int(kept[0]), int(kept[-1]) + 1) if len(kept) else (0, 0)


def _part(name: str, value: Tensor) -> bytes:
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{name} {value.dtype} {tuple(value.shape)} ".encode() + raw


def keys_of(examples: Iterable[bytes], key: str) -> np.ndarray:
    """Return a 16-byte key of each example, uint8 of (examples, 16), in their order.

    ``key`` is the comparison's, in hexadecimal digits. Of examples alike each has its own.
    """
    seen: Counter[bytes] = Counter()
    secret, keys = bytes.fromhex(key), list[bytes]()
    for example in examples:
        number = seen[example]
        seen[example] += 1
        numbered = number.to_bytes(8, "big") + example
        keys.append(hashlib.blake2b(numbered, digest_size=16, key=secret).digest())
    return np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16)


def digest(examples: bytes) -> bytes:
    """Return what is kept of an example while an evaluation goes on."""
    return hashlib.blake2b(examples, digest_size=32).digest()


def in_order(keys: np.ndarray) -> np.ndarray:
    """Return the order, (examples,), that sorts keys of (examples, 16)."""
    return np.lexsort(keys.T[::-1])
