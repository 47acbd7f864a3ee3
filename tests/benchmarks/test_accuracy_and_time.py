"""The README's picture shows what was measured, and agrees with the table of docs/methods.md."""

import json
import math
import re

import accuracy_and_time as picture
import pytest
from documents import DOCS, README

RESULTS = json.loads(picture.RESULTS.read_text(encoding="utf-8"))
STALE = "stale: python benchmarks/accuracy_and_time.py --render"


def test_the_picture_shows_the_results():
    text = picture.PICTURE.read_text(encoding="utf-8")
    assert list(RESULTS) == list(picture.RUNS)
    assert picture.digest(RESULTS) in text, STALE
    assert all(f">{name}</text>" in text for name in RESULTS)
    assert "training time (CPU seconds of one thread)" in text


def test_the_same_results_give_the_same_picture():
    assert picture.render(RESULTS) == picture.render(RESULTS)


def test_the_readme_shows_it_to_those_who_cannot_see_it():
    [(alt, link)] = re.findall(r"!\[(.*?)\]\((.*?)\)", README.text)
    assert link == "docs/accuracy_and_time.svg"
    assert "accuracy against training time" in alt


def test_the_accuracies_are_those_of_the_table():
    methods = next(page for page in DOCS if page.path.name == "methods.md")
    rows = re.findall(r"^\| `([\w-]+)`(?: `(\S+)`)? \| \S+ \| (0\.\d+) \|", methods.text, re.M)
    known = {" ".join(filter(None, (name, setting))): value for name, setting, value in rows}
    assert len(known) == 7
    for name, accuracy in known.items():
        assert f"{RESULTS[name]['accuracy']:.3f}" == accuracy


def test_the_standard_error_is_that_of_a_share():
    found = picture.standard_error({"accuracy": 0.9, "test_rows": 900})
    assert found == pytest.approx(math.sqrt(0.9 * 0.1 / 900))
