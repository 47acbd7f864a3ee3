"""Where names go in a picture so that they lie on nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle by its ends, in points."""

    left: float
    low: float
    right: float
    high: float

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float) -> Box:
        """Return the rectangle around a point."""
        return cls(x - width / 2, y - height / 2, x + width / 2, y + height / 2)

    def overlap(self, other: Box) -> float:
        """Return the area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.high, other.high) - max(self.low, other.low)
        return max(width, 0.0) * max(height, 0.0)


# Above and to the left first: a front goes on to the right and comes from below.
_ROUND = ((-0.9, 0.9), (0, 1), (-1, 0), (1, 0), (0, -1), (0.9, -0.9), (0.9, 0.9), (-0.9, -0.9))


def placed(
    point: tuple[float, float], size: tuple[float, float], taken: list[Box], *, up: int = 1
) -> tuple[float, float]:
    """Return how far from its point a name goes: where it covers least of what is there.

    Its place is added to ``taken``. Above comes before below, with ``up=-1`` the other way round.
    """
    best: tuple[float, tuple[float, float], Box] | None = None
    for reach in (1.0, 1.6, 2.3):
        for right, above in _ROUND:
            offset = (reach * right * (7 + size[0] / 2), reach * up * above * (6 + size[1] / 2))
            box = Box.around(point[0] + offset[0], point[1] + offset[1], *size)
            covered = sum(map(box.overlap, taken))
            if best is None or covered < best[0]:
                best = (covered, offset, box)
    assert best is not None
    taken.append(best[2])
    return best[1]


def spread(
    heights: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf
) -> list[float]:
    """Return heights in the same order, moved apart as little as makes all ``gap`` distant.

    Those that are too close become one group around their mean, as often as groups meet. As far as
    there is room they stay between ``low`` and ``high``.
    """
    order = sorted(range(len(heights)), key=lambda at: heights[at])
    groups: list[list[int]] = []
    for at in order:
        groups.append([at])
        while len(groups) > 1 and _top(groups[-2], heights, gap) + gap > _low(
            groups[-1], heights, gap
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    found = [0.0] * len(heights)
    for group in groups:
        for step, at in enumerate(group):
            found[at] = _low(group, heights, gap) + step * gap
    for place, at in enumerate(order):
        found[at] = max(found[at], low + place * gap)
    for place, at in enumerate(reversed(order)):
        found[at] = min(found[at], high - place * gap)
    return found


def _low(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return sum(heights[at] for at in group) / len(group) - gap * (len(group) - 1) / 2


def _top(group: Sequence[int], heights: Sequence[float], gap: float) -> float:
    return _low(group, heights, gap) + gap * (len(group) - 1)
