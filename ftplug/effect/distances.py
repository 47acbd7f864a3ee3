"""How far the answers of two models are from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug.effect.pieces import Answers

Rows = Sequence[tuple["Tensor", "Tensor"]]  # log-probabilities (rows, k) of two models

_NOTHING = 1e-6  # relative: what rounding leaves between two ways to compute the same


@dataclass(frozen=True)
class Effect:
    """What training changed on a probe's inputs, against the trained head on the base's trunk.

    ``kl`` is the mean Kullback-Leibler divergence in nats, of the trained distribution to the other
    one (of language models over the listed tokens and one bin for all others), ``changed`` the
    share of answers whose likeliest class or token is another; both are None where the answers are
    no distribution. ``distance`` is the norm of the difference by that of the answers.
    """

    kl: float | None
    changed: float | None
    distance: float

    @property
    def is_nil(self) -> bool:
        """Whether training changed no answer."""
        return self.distance <= _NOTHING


def kl(rows: Rows) -> float:
    """Return the mean divergence of the first to the second, in nats; never below zero."""
    import torch

    found = []
    for first, second in rows:
        p, q = (_with_the_rest(each.double()) for each in (first, second))
        found.append((p.exp() * (p - q)).sum(-1).flatten())
    return max(0.0, float(torch.cat(found).mean()))


def _with_the_rest(rows: Tensor) -> Tensor:
    """Append to log-probabilities (rows, k) that of everything else."""
    import torch

    rest = (1 - rows.exp().sum(-1, keepdim=True)).clamp_min(1e-12)
    return torch.cat([rows, rest.log()], -1)


def changed(rows: Rows) -> float:
    """Return the share of rows whose largest entry stands elsewhere."""
    import torch

    differ = [(a.argmax(-1) != b.argmax(-1)).flatten() for a, b in rows]
    return float(torch.cat(differ).double().mean())


def relative_distance(first: Answers, second: Answers) -> float:
    """Return ``|first - second| / |second|`` over all answers of all inputs that both have.

    A kind of answer is compared with itself: the mean over the kinds counts.
    """
    shares = []
    for kind in sorted({kind for answers in second for kind in answers}):
        pairs = [
            (a[kind], b[kind])
            for a, b in zip(first, second, strict=True)
            if kind in a and kind in b
        ]
        apart = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
        size = sum(float(b.double().square().sum()) for _, b in pairs)
        if pairs:
            shares.append((apart / max(size, 1e-30)) ** 0.5)
    return sum(shares) / len(shares) if shares else 0.0
