"""How often `ftplug compare` is right: its verdicts on simulated outcomes.

A simulated cell answers each example rightly or wrongly. Two kinds of differences are simulated:

itself    a method against itself on disjoint seeds. 12 % of the examples are answered by chance,
          anew in each cell, and with what probability depends on its seed; the others always alike.
planted   a candidate that is better by so many points on average. Some examples are discordant:
          one of the two answers them rightly. `same`: these are the same examples at all seeds
          but for what the seed shifts; `other`: others at each seed.

The verdicts are those of ftplug.comparing.verdicts, which `ftplug compare` uses.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ftplug.comparing import verdicts
from ftplug.comparing.statistics import Floats

RESULTS = Path(__file__).with_suffix(".json")
DELTA = 0.01
BY_CHANCE = 0.12  # of the examples


@dataclass(frozen=True)
class Design:
    """What is simulated; ``seed_sd`` and ``difference`` in parts of 1, 0.01 being a point.

    ``discordant`` None is a method against itself.
    """

    seeds: int
    seed_sd: float = 0.005
    difference: float = 0.0
    discordant: float | None = None
    same: bool = True
    examples: int = 600

    @property
    def text(self) -> str:
        """Return it in words."""
        s = "s" if self.seeds > 1 else ""
        seeds = (
            f"{self.seeds} seed{s}, {self.examples} rows, seed s.d. {100 * self.seed_sd:g} points"
        )
        if self.discordant is None:
            return f"itself: {seeds}"
        where = "same" if self.same else "other"
        share = f"{100 * self.discordant:g} % discordant ({where} examples)"
        return f"{100 * self.difference:g} points: {seeds}, {share}"


@dataclass(frozen=True)
class Figure:
    """How often, in percent: each verdict, and each interval's cover of the true difference."""

    design: Design
    simulations: int
    better: float
    worse: float
    equivalent: float
    covered: float
    percentile_covered: float


def itself(rng: np.random.Generator, design: Design) -> Floats:
    """Return differences, (seeds, examples), between cells of one method."""
    by_chance = rng.random(design.examples) < BY_CHANCE

    def cells() -> Floats:
        shift = rng.normal(0, design.seed_sd, (design.seeds, 1))
        drawn = rng.random((design.seeds, design.examples))
        right = by_chance & (drawn < 0.5 + shift / BY_CHANCE)
        return right.astype(np.float64)

    return cells() - cells()


def planted(rng: np.random.Generator, design: Design) -> Floats:
    """Return differences, (seeds, examples), whose mean is the planted one."""
    assert design.discordant is not None
    by_seed = rng.normal(design.difference, design.seed_sd, (design.seeds, 1))
    right = (design.discordant + by_seed) / 2  # probability that the candidate alone is right
    drawn = rng.random((1 if design.same else design.seeds, design.examples))
    won, lost = drawn < right, drawn > 1 - design.discordant + right
    return won.astype(np.float64) - lost.astype(np.float64)


def simulate(number: int, design: Design, resamples: int) -> tuple[str, bool, bool]:
    """Return a simulation's verdict, and whether the two intervals cover the truth."""
    rng = np.random.default_rng([number, design.seeds, round(1e6 * design.difference)])
    differences = (itself if design.discordant is None else planted)(rng, design)
    found = verdicts.of_outcomes(differences, resamples=resamples, seed=number)
    verdict = verdicts.verdict(found, found.p, DELTA)
    return verdict, _covers(found.interval, design), _covers(found.percentiles, design)


def _covers(interval: tuple[float, float], design: Design) -> bool:
    return interval[0] <= design.difference <= interval[1]


Mapper = Callable[
    [Callable[[int], tuple[str, bool, bool]], range], Sequence[tuple[str, bool, bool]]
]


def figure(design: Design, simulations: int, resamples: int, apply: Mapper) -> Figure:
    """Simulate a design so often."""
    run = partial(simulate, design=design, resamples=resamples)
    names, covered, plain = zip(*apply(run, range(simulations)), strict=True)

    def percent(times: int) -> float:
        return round(100 * times / simulations, 1)

    return Figure(
        design,
        simulations,
        better=percent(names.count("better")),
        worse=percent(names.count("worse")),
        equivalent=percent(names.count("equivalent")),
        covered=percent(sum(covered)),
        percentile_covered=percent(sum(plain)),
    )


def designs() -> list[Design]:
    """Return all designs of the docs."""
    found = [Design(3, 0.005), Design(3, 0.02)]
    for discordant, seed_sd, seeds in (
        (0.06, 0.005, 3),
        (0.06, 0.005, 10),
        (0.15, 0.02, 10),
        (0.15, 0.02, 3),
        (0.10, 0.005, 3),
        (0.15, 0.005, 3),
    ):
        found += [Design(seeds, seed_sd, 0.03, discordant, same) for same in (True, False)]
    return [*found, Design(2, 0.02), Design(10, 0.02)]


def table(figures: Sequence[Figure]) -> str:
    """Return figures as a table in markdown, in percent."""
    head = "| simulated | better | worse | equivalent | 95 % interval covers | percentiles alone |"
    rows = [
        f"| {one.design.text} | {one.better:.1f} | {one.worse:.1f} | {one.equivalent:.1f} "
        f"| {one.covered:.1f} | {one.percentile_covered:.1f} |"
        for one in figures
    ]
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def read_figures(path: Path = RESULTS) -> list[Figure]:
    """Read the figures that the docs have."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return [Figure(**{**one, "design": Design(**one["design"])}) for one in found]


def main() -> None:
    """Print the table, and with --write keep its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--simulations", type=int, default=2000, help="of each design (default: 2000)")
    add("--resamples", type=int, default=499, help="permutations and bootstrap samples (499)")
    add("--processes", type=int, default=2, help="at once (default: 2)")
    add("--only", default="", help="designs whose description has this text")
    add("--write", action="store_true", help=f"keep the figures in {RESULTS.name}")
    given = parser.parse_args()
    print(f"{given.simulations} simulations, {given.resamples} resamples, equivalent: +-{DELTA}")
    figures = []
    with multiprocessing.Pool(given.processes) as pool:
        for design in designs():
            if given.only in design.text:
                apply = partial(pool.map, chunksize=20)
                figures.append(figure(design, given.simulations, given.resamples, apply))
                print(table(figures[-1:]).splitlines()[-1], flush=True)
    if given.write:
        text = json.dumps([asdict(one) for one in figures], indent=1) + "\n"
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
