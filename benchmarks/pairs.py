"""Measure two things in turn, A B A B …, and say how they compare, with a 95 % interval.

What else a machine does in the meantime meets both of a pair alike, so that pairs are compared and
not means. ``time.process_time`` as the clock counts this process's own CPU seconds: use it where
other programs share the cores and nothing is waited for.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

DRAWS = 2000  # of the bootstrap
SEED = 0


@dataclass(frozen=True)
class Paired:
    """Medians in the clock's seconds; the median of the paired ratios a / b and its interval."""

    median_a: float
    median_b: float
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the ratio as it is reported: ``0.98 (0.96 to 1.01)``."""
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def interleave(
    a: Callable[[], object],
    b: Callable[[], object],
    pairs: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Paired:
    """Time ``a`` and ``b`` in turn, ``pairs`` times each; ``warm_up`` pairs before are left out."""
    times_a: list[float] = []
    times_b: list[float] = []
    for _ in range(warm_up + pairs):
        times_a.append(timed(a, clock))
        times_b.append(timed(b, clock))
    return compare(times_a[warm_up:], times_b[warm_up:])


def timed(action: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that one call takes."""
    start = clock()
    action()
    return clock() - start


def compare(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Compare measurements that were taken in turn: ``a[i]`` just before ``b[i]``."""
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    ratio, low, high = interval(ratios)
    return Paired(statistics.median(a), statistics.median(b), ratio, low, high)


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of paired values and its 95 % interval (bootstrap over the pairs)."""
    draw = random.Random(SEED)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(DRAWS))
    return statistics.median(values), medians[int(0.025 * DRAWS)], medians[int(0.975 * DRAWS) - 1]
