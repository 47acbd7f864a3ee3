"""What a run takes and leaves: bytes of optimizer, artifact and memory, counts of its batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.trainer_pt_utils import find_batch_size

if TYPE_CHECKING:
    from torch import nn

    from ftplug.attaching.attachment import Attachment


@dataclass
class Batches:
    """What training was given: examples, and tokens without padding where there are tokens."""

    samples: int = 0
    tokens: Any = None  # a tensor on the batches' device, so that nothing waits for it

    def count(self, inputs: Any) -> None:
        """Count a batch."""
        self.samples += batch_rows(inputs) or 0
        given = inputs if isinstance(inputs, Mapping) else {}
        if isinstance(mask := given.get("attention_mask"), torch.Tensor) and mask.ndim == 2:
            self.tokens = (0 if self.tokens is None else self.tokens) + mask.sum()
        elif isinstance(ids := given.get("input_ids"), torch.Tensor):
            self.tokens = (0 if self.tokens is None else self.tokens) + ids.numel()


def batch_rows(inputs: Any) -> int | None:
    """Return how many examples a batch has; a list of examples has its length."""
    if isinstance(inputs, list):
        return len(inputs)
    found = find_batch_size(dict(inputs) if isinstance(inputs, Mapping) else inputs)
    return None if found is None else int(found)


def optimizer_bytes(optimizer: Any) -> int:
    """Return the bytes of an optimizer's state: moments, steps, whatever tensors it keeps."""
    states = getattr(optimizer, "optimizer", optimizer).state.values()
    return sum(_tensor_bytes(state) for state in states)


def _tensor_bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    inner = value.values() if isinstance(value, dict) else value
    return sum(map(_tensor_bytes, inner)) if isinstance(value, dict | list | tuple) else 0


def folder_bytes(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fresh_digest(model: nn.Module, attached: Attachment) -> str | None:
    """Return a digest of what fresh tensors hold: a head, what methods added; None without any.

    Taken before the first step it is equal where two runs drew the same.
    """
    names = {*attached.plan.added, *attached.plan.fresh}
    fresh = {name: p for name, p in model.named_parameters() if name in names}
    digest = hashlib.sha256()
    for name, parameter in fresh.items():
        value = parameter.detach().cpu().contiguous().reshape(-1)
        digest.update(name.encode() + value.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32] if fresh else None
