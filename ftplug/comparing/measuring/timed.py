"""What training and evaluations took, on the clock and of the processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Moment:
    """Seconds on the clock, and those that all threads of the process have computed for."""

    clock: float = field(default_factory=time.perf_counter)
    processor: float = field(default_factory=time.process_time)


@dataclass
class Timed:
    """One training, and the evaluations in and around it. Seconds."""

    began: Moment = field(default_factory=Moment)
    ended: Moment | None = None
    evaluation: float = 0.0
    _aside: float = 0.0
    _aside_processor: float = 0.0

    @property
    def training(self) -> float | None:
        """What training took without its evaluations; None before it has ended."""
        if self.ended is None:
            return None
        return self.ended.clock - self.began.clock - self._aside

    @property
    def training_processor(self) -> float | None:
        """The same of the processor: other work on the machine hardly moves it."""
        if self.ended is None:
            return None
        return self.ended.processor - self.began.processor - self._aside_processor

    @contextmanager
    def evaluating(self, *, in_training: bool) -> Iterator[None]:
        """Time an evaluation."""
        start = Moment()
        try:
            yield
        finally:
            end = Moment()
            self.evaluation += end.clock - start.clock
            if in_training:
                self._aside += end.clock - start.clock
                self._aside_processor += end.processor - start.processor
