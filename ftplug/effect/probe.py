"""A probe: fixed inputs that hold nobody's data, and what base and trained model answered to them.

It lies in every artifact, so that whoever loads one can see that it does what it did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.effect.distances import Effect, changed, kl, relative_distance
from ftplug.effect.file import read_probe_file, write_probe_file
from ftplug.effect.packing import pack, unpack
from ftplug.effect.pieces import Answers, Continuation, Drawn, Input

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FILE", "Answers", "Continuation", "Drawn", "Effect", "Input", "Probe"]

FILE = "ftplug_probe.safetensors"
"""The probe's name in an artifact: at most 64 KiB, listed in the manifest as any other file."""


@dataclass(frozen=True)
class Probe:
    """Inputs and answers: of the trained model, of its head on the base's trunk, of the base.

    "No effect" means the answers ``head_only``: the method off, the trained head on. Of a base with
    a fresh head there is only what does not pass the head, or nothing. ``token_ids`` are, for each
    input, the k tokens (int64) that base or trained model hold likeliest to come next (language
    models, else empty). ``dtype`` is the model's, as torch names it: ``bfloat16``. With ``classes``
    the logits are whole rows of so many classes, of which one is right; else it is 0.
    """

    inputs: tuple[Input, ...]
    trained: Answers
    head_only: Answers
    base: Answers | None
    token_ids: tuple[Tensor, ...] = ()
    continuations: tuple[Continuation, ...] = ()
    dtype: str = "float32"
    classes: int = 0

    def write(self, path: Path) -> None:
        """Write it; the same probe gives the same bytes."""
        write_probe_file(path, *pack(vars(self)))

    @classmethod
    def read(cls, path: Path) -> Probe:
        """Read a file that anybody may have written; an ArtifactError says what is off."""
        return cls(**unpack(*read_probe_file(path), path))

    def effect(self) -> Effect:
        """Return how far the trained answers are from those of its head on the base's trunk."""
        rows = list(self._rows())
        return Effect(
            kl=kl(rows) if rows else None,
            changed=changed(rows) if rows else None,
            distance=relative_distance(self.trained, self.head_only),
        )

    def _rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield log-probabilities (rows, k), trained and head only: of tokens or of classes."""
        import torch

        for trained, without in zip(self.trained, self.head_only, strict=True):
            if "log_probs" in trained:
                yield trained["log_probs"][None], without["log_probs"][None]
            elif self.classes and "logits" in trained:
                both = (a["logits"].view(-1, self.classes) for a in (trained, without))
                one, other = (torch.log_softmax(rows.double(), -1) for rows in both)
                yield one, other
