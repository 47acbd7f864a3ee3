"""``ftplug run --like DIR``: train again as the winner of a comparison was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import FILE, Result, read_results
from ftplug.comparing.summary import Judged, Summary
from ftplug.errors import FtplugError

if TYPE_CHECKING:
    from ftplug.method import Method


@dataclass(frozen=True)
class Winner:
    """What the best candidate of a comparison was trained with; ``seed`` is that of ``DIR/best``.

    ``lr`` is None where the script's own rate counted.
    """

    methods: Sequence[Method]
    lr: float | None
    seed: int
    directory: Path
    comparison: Comparison

    @classmethod
    def read(cls, directory: Path, beside: Mapping[str, object]) -> Winner:
        """Read a comparison's folder; ``beside`` are options that would say something else.

        Raises :class:`FtplugError` for one of those that was given, for what is no comparison, and
        for one in which nothing finished.
        """
        if given := [option for option, value in beside.items() if value]:
            raise FtplugError(
                f"run --like {directory}: the comparison's winner says the method, its settings "
                f"and its rate: leave out {', '.join(given)}, or --like"
            )
        comparison, summary = Comparison.read(directory), Summary.read(directory)
        judged = next((c for c in summary.candidates if c.candidate == summary.best), None)
        if judged is None:
            raise FtplugError(f"{directory}: nothing finished in this comparison: there is no best")
        cells = _cells(judged, read_results(directory / FILE))
        if not cells or not cells[0].methods:
            raise FtplugError(f"{directory / FILE}: no finished cell of {judged.candidate!r}")
        return cls(_methods(cells[0]), judged.lr, cells[0].seed, directory, comparison)

    def command(
        self, given: Sequence[str] | None, *, module: bool, seed: int
    ) -> tuple[list[str], bool, str | None]:
        """Return what to run, whether it is a module, and how its script takes a seed.

        Without a command it is the comparison's own, in the folder in which that ran, which
        becomes the working directory; ``{cell}`` in it stands for ``DIR/again``, ``{seed}`` for
        ``seed``.
        """
        if given:
            return list(given), module, None
        again = str(self.directory.resolve() / "again")
        try:
            os.chdir(self.comparison.folder or ".")
        except OSError as error:
            raise FtplugError(
                f"{self.directory}: its script ran in {self.comparison.folder}: {error.strerror}: "
                "name a command after --"
            ) from None
        words = [word.replace("{cell}", again) for word in self.comparison.command]
        filled = [word.replace("{seed}", str(seed)) for word in words]
        return filled, self.comparison.module, self.comparison.seed_arg


def _cells(judged: Judged, results: Sequence[Result]) -> list[Result]:
    """Return the finished cells of a candidate at its rate, by seed: the first one's is the best's.

    ``DIR/best`` is a copy of that one's artifact.
    """
    own = [r for r in results if (r.candidate, r.lr) == (judged.candidate, judged.lr)]
    return sorted((r for r in own if r.status == "finished"), key=lambda result: result.seed)


def _methods(result: Result) -> list[Method]:
    from ftplug import discovery
    from ftplug.host import migrated

    recorded = [(entry["name"], entry["settings"]) for entry in result.methods]
    return [discovery.entry(name).load().configure(own) for name, own in migrated(recorded)]
