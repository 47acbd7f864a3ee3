"""What runs the cells of a comparison: processes of this machine, or a cluster's jobs."""

from __future__ import annotations

from typing import Protocol

from ftplug.comparing.results import Cell, Result


class Engine(Protocol):
    """Runs at most ``jobs`` cells at a time, each in its own folder."""

    jobs: int

    def start(self, cell: Cell, *, prunes: bool) -> None:
        """Begin a cell; ``prunes``: it is ended early where it falls behind."""
        ...

    def get_ready(self) -> None:
        """Wait until a cell can begin at once."""
        ...

    def look(self, seconds: float) -> None:
        """Wait until a cell has ended, for at most so many seconds."""
        ...

    def ended(self) -> list[Result]:
        """Return the results of cells that have ended since this was asked."""
        ...

    def since(self) -> dict[Cell, float]:
        """Return the cells that run, and for how many seconds each has."""
        ...

    def end(self, reason: str) -> list[Result]:
        """End all cells; return what they reached, as pruned for a reason."""
        ...

    def close(self) -> None:
        """End all cells without results: they run again."""
        ...
