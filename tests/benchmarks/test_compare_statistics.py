"""The command runs, simulates what it says, and the docs have its figures."""

import subprocess
import sys

import compare_statistics
import numpy as np
import pytest
from compare_statistics import Design
from documents import DOCS, ROOT

PAGE = next(page for page in DOCS if page.path.name == "comparing-statistics.md")


def test_the_docs_have_its_figures():
    figures = compare_statistics.read_figures()
    assert compare_statistics.table(figures) in PAGE.text
    assert [one.design for one in figures] == compare_statistics.designs()


def test_the_figures_are_what_they_must_be():
    for one in compare_statistics.read_figures():
        if one.design.discordant is None:
            assert one.better <= 5
        if one.design.seeds == 10:
            assert 92 <= one.covered <= 98
        if one.design.seeds == 3 and one.design.discordant == 0.06:
            assert one.better >= 80
            assert one.worse <= 0.5


@pytest.mark.parametrize("same", [True, False])
def test_what_is_planted_is_there(same):
    design = Design(40, 0.005, 0.03, 0.1, same, examples=20_000)
    found = compare_statistics.planted(np.random.default_rng(0), design)
    assert found.shape == (40, 20_000)
    assert found.mean() == pytest.approx(0.03, abs=0.005)
    assert np.abs(found).mean() == pytest.approx(0.1, abs=0.005)
    assert found.mean(axis=1).std() < 0.01
    assert (np.ptp(found, axis=0).mean() < 0.1) == same


def test_itself_differs_by_seeds_and_chance_alone():
    design = Design(200, 0.02, examples=5_000)
    found = compare_statistics.itself(np.random.default_rng(0), design)
    assert found.mean() == pytest.approx(0, abs=0.006)
    assert found.mean(axis=1).std() == pytest.approx(0.02 * 2**0.5, rel=0.15)
    assert np.abs(found).mean() == pytest.approx(0.06, abs=0.005)


@pytest.mark.slow
def test_the_command_prints_a_row_of_each_design():
    command = [sys.executable, "benchmarks/simulations/compare_statistics.py", "--simulations", "4"]
    asked = [*command, "--only", "10 seeds", "--resamples", "50", "--processes", "1"]
    done = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True)
    rows = done.stdout.splitlines()[1:]
    assert len(rows) == sum("10 seeds" in one.text for one in compare_statistics.designs())
