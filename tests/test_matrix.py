"""The sets of versions of ``make matrix``, and the page that shows what was found."""

import json

import pytest
from matrix import PAGE, RESULTS, render, run, table_in
from version_sets import ROOT, VersionSet, read

SETS, SUITES = read()


def test_the_page_shows_the_results():
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert table_in(PAGE.read_text(encoding="utf-8")) == render(results, SUITES), (
        "docs/versions.md is stale: python tools/matrix.py"
    )


def test_a_failure_is_seen_in_the_table():
    counts = {"passed": 3, "failed": 2, "skipped": 0}
    versions = dict.fromkeys(
        ("transformers", "peft", "huggingface-hub", "accelerate", "trl", "sentence-transformers"),
        "1",
    )
    found = {"own": {"versions": versions, "suites": {"core": counts}, "date": "today"}}
    assert "**2 failed**" in render(found, SUITES)


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite_names_tests_that_exist(suite):
    paths = [path for path in SUITES[suite] if not path.startswith("-")]
    assert paths
    assert all((ROOT / path).exists() for path in paths)


@pytest.mark.parametrize("name", SETS)
def test_a_sets_pins_stand_in_place_of_the_pinned_ones(name):
    lines = SETS[name].constraints().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert len(names) == len(set(names))
    assert set(SETS[name].pins) <= set(lines)
    assert any(line.startswith("torch==") for line in lines)


def test_the_newest_set_lifts_every_pin_but_torchs():
    assert [line[:7] for line in VersionSet("newest", newest=True).constraints().split()] == [
        "torch=="
    ]


@pytest.mark.parametrize(
    "arguments", [["--no-such-option"], ["tests/test_matrix.py", "-k", "nothing_of_this_name"]]
)
def test_a_suite_that_ran_nothing_is_no_success(arguments):
    with pytest.raises(SystemExit, match=r"pinned: pytest ended with [45]"):
        run(VersionSet("pinned"), arguments, 1)
