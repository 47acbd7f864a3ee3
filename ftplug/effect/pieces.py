"""The pieces of a probe: an input, pixels and sound that are drawn again, a continuation."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ftplug.errors import NotReplayable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

MOST_STORED = 2**13
"""Numbers that one stored tensor may have."""

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
    as float32 of this shape; ``sha256`` is that of their bytes, little-endian. With ``columns``
    they are an image's flat patches, row by row, as Pix2Struct reads them: the first two numbers of
    each are its row and its column, counted from 1.
    """

    seed: int
    shape: tuple[int, ...]
    sha256: str
    columns: int = 0

    @classmethod
    def of(cls, seed: int, shape: tuple[int, ...], columns: int = 0) -> Self:
        """Draw once, to know the digest."""
        numbers = _numbers(seed, shape, columns)
        return cls(seed, shape, hashlib.sha256(numbers.tobytes()).hexdigest(), columns)

    def fields(self) -> dict[str, Any]:
        """Return what is stored of it: no ``columns`` where it is no image in patches."""
        return {name: value for name, value in vars(self).items() if name != "columns" or value}

    def values(self) -> Tensor:
        """Draw again; raises :class:`ftplug.errors.NotReplayable` where other numbers come."""
        import torch

        numbers = _numbers(self.seed, self.shape, self.columns)
        if hashlib.sha256(numbers.tobytes()).hexdigest() != self.sha256:
            raise NotReplayable(
                f"the probe's pixels or sound ({self.shape}, seed {self.seed}) are drawn here with "
                "other values than where it was made: numpy's frozen generator differs"
            )
        return torch.from_numpy(numbers.astype("=f4"))


def _numbers(seed: int, shape: tuple[int, ...], columns: int) -> NDArray[np.float32]:
    import numpy as np

    numbers = np.random.RandomState(seed).standard_normal(shape).astype("<f4")
    if columns:
        rows, places = np.divmod(np.arange(shape[-2]), columns)
        numbers[..., 0], numbers[..., 1] = rows + 1, places + 1
    return numbers


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
