"""The pieces of a probe: an input, pixels and sound that are drawn again, a continuation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ftplug.errors import NotReplayable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Answers = tuple["dict[str, Tensor]", ...]
"""A dict for each input, float32 of shape (n,) by kind of answer.

``logits`` is a sample of what the model's head gives, in places that depend on its shape alone;
``hidden`` a sample of the backbone's last hidden state (not of language models); ``log_probs`` are
those of the next token at ``Probe.token_ids`` (language models).
"""


@dataclass(frozen=True)
class Drawn:
    """Pixels or sound that need not be stored: a seed makes them again.

    Standard normal numbers of ``numpy.random.RandomState(seed)``, a stream that numpy has frozen,
    as float32 of this shape; ``sha256`` is that of their bytes, little-endian.
    """

    seed: int
    shape: tuple[int, ...]
    sha256: str

    @classmethod
    def of(cls, seed: int, shape: tuple[int, ...]) -> Self:
        """Draw once, to know the digest."""
        return cls(seed, shape, hashlib.sha256(_normal(seed, shape).tobytes()).hexdigest())

    def values(self) -> Tensor:
        """Draw again; raises :class:`ftplug.errors.NotReplayable` where other numbers come."""
        import torch

        numbers = _normal(self.seed, self.shape)
        if hashlib.sha256(numbers.tobytes()).hexdigest() != self.sha256:
            raise NotReplayable(
                f"the probe's pixels or sound ({self.shape}, seed {self.seed}) are drawn here with "
                "other values than where it was made: numpy's frozen generator differs"
            )
        return torch.from_numpy(numbers.astype("=f4"))


def _normal(seed: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    import numpy as np

    return np.random.RandomState(seed).standard_normal(shape).astype("<f4")


@dataclass(frozen=True)
class Input:
    """One input, a batch of one, by the names of the forward's arguments.

    ``stored`` are small whole numbers (token ids, masks, grids); ``text`` is what the ids of a
    prompt say (language models with a tokenizer), without special tokens.
    """

    stored: dict[str, Tensor]
    drawn: dict[str, Drawn]
    text: str | None = None


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt, greedily: at most 16 tokens, up to the one that ends a text.

    ``input`` counts the probe's inputs from 0; the base's is missing where it was not asked.
    """

    input: int
    trained: tuple[int, ...]
    trained_text: str
    base: tuple[int, ...] | None
    base_text: str | None
