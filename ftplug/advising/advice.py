"""One piece of advice: a setting, and the figure that speaks for it or against it."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20  # bytes
WORTH_IT = 1.03  # less is not worth a line in a script


@dataclass(frozen=True)
class Advice:
    """A setting and what it is worth.

    ``gain`` says how many times less the step takes, or how many times fewer tokens or bytes there
    are, as ``what`` says; below 1 it costs more. ``evidence`` says whether that was measured here,
    counted, or published, and where. ``sure`` is false where measurements disagree about the sign.
    """

    setting: str
    gain: float
    what: str
    evidence: str
    sure: bool = True

    @property
    def is_worth_it(self) -> bool:
        """Whether to change it."""
        return self.sure and self.gain >= WORTH_IT
