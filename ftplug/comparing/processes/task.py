"""What the processes of a cell are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import CELLS, Cell, Result

CACHE = "cache"  # in the comparison's folder
SHARED_CACHE = "FTPLUG_SHARED_CACHE"  # where trunk-cache shares a frozen trunk's answers


class RunCell(Protocol):
    """Runs the script in this process as a cell: :func:`ftplug.comparing.cell.run_cell`."""

    def __call__(
        self,
        comparison: Comparison,
        cell: Cell,
        folder: Path,
        *,
        go_on: Callable[[float, float], bool],
    ) -> Result:
        """Return how it ended."""
        ...


@dataclass(frozen=True)
class Task:
    """A cell to run: ``directory`` is the comparison's.

    ``environment`` is what is set for the cell, None for what is taken away. ``threads`` are
    torch's, None for its own number. ``prunes``: the metric by epoch may end it.
    """

    comparison: Comparison
    cell: Cell
    directory: Path
    run: RunCell
    environment: Mapping[str, str | None] = field(default_factory=dict)
    threads: int | None = None
    prunes: bool = False

    @property
    def folder(self) -> Path:
        """The cell's own folder."""
        return self.directory / CELLS / self.cell.id


def run_script(
    comparison: Comparison,
    cell: Cell,
    folder: Path,
    *,
    go_on: Callable[[float, float], bool],
) -> Result:
    """Run a cell as it is; torch is imported in its process alone."""
    from ftplug.comparing.cell import run_cell

    return run_cell(comparison, cell, folder, go_on=go_on)
