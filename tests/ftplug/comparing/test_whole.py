"""``ftplug compare`` as its user has it: a script, real processes, a report and the winner."""

import json
import os
import subprocess
import sys

import cells
import pytest

from ftplug.artifacts.manifest import read_manifest
from ftplug.comparing.outcomes import read_outcomes
from ftplug.comparing.results import read_results

pytestmark = pytest.mark.slow

SPLIT = """
data = rows(model, 26)
data = [data[at] for at in torch.randperm(26)]
"""
WRITES = """
open("theirs/said", "w").write("done")
"""
TRIES = ("lora r=4", "bitfit", "lora target_modules=lorra")


def compared(folder):
    """Run the command; return it ended."""
    tries = [word for text in TRIES for word in ("--try", text)]
    command = ("compare", *tries, "--lr", "1e-2", "--seeds", "2", "--out", "out", "--", "train.py")
    return subprocess.run(
        [sys.executable, "-m", "ftplug", *command],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_first_cell_that_is_evaluated_on_other_examples_ends_it(tmp_path):
    split = cells.CLASSIFIES.replace("data = rows(model, 26)", SPLIT)
    (tmp_path / "train.py").write_text(cells.BEGIN + split)
    for _ in range(2):  # and the second time before anything runs
        ended = compared(tmp_path)
        assert ended.returncode == 1
        assert "cells were evaluated on different examples: cells/" in ended.stderr
        assert "neither a split nor masks may follow from the seed" in ended.stderr
        assert "Traceback" not in ended.stderr
        seeds = [one.seed for one in read_results(tmp_path / "out" / "results.jsonl")]
        assert seeds == [0, 0, 0, 1]  # the first of seed 1, of six cells


def test_a_script_may_write_into_the_folder_that_it_names(tmp_path):
    (tmp_path / "train.py").write_text(cells.BEGIN + cells.CLASSIFIES + WRITES)
    ended = compared(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "theirs" / "said").read_text() == "done"


def test_a_script_is_compared_and_going_on_runs_nothing_again(tmp_path):
    (tmp_path / "train.py").write_text(cells.BEGIN + cells.CLASSIFIES)
    ended = compared(tmp_path)
    assert ended.returncode == 0, ended.stderr
    out = tmp_path / "out"
    results = read_results(out / "results.jsonl")
    assert {(r.candidate, r.seed): r.status for r in results} == {
        (name, seed): "failed" if "lorra" in name else "finished"
        for name in TRIES
        for seed in (0, 1)
    }
    assert all("lorra" in r.reason for r in results if r.status == "failed")
    finished = [r for r in results if r.status == "finished"]
    for one in finished:
        found = read_outcomes(out / one.outcomes)
        assert found.outcomes.mean() == pytest.approx(one.value, abs=1e-6)
        assert all((one.train_seconds, one.optimizer_bytes, one.peak_rss, one.artifact_bytes))
    summary = json.loads((out / "summary.json").read_text())
    verdicts = {row["candidate"]: row["verdict"] for row in summary["candidates"]}
    assert verdicts["lora r=4"] == "baseline"
    assert verdicts["lora target_modules=lorra"] == "failed"
    assert "report:" in ended.stdout

    manifest = read_manifest(out / "best")
    assert manifest.training["comparison"]
    assert "## Comparison" in (out / "best" / "README.md").read_text()
    assert (out / "report.html").stat().st_size > 10_000

    again = compared(tmp_path)
    assert again.returncode == 0, again.stderr
    assert f"{len(results)} cells had ended before: they are kept; 2 of them failed" in again.stderr
    assert "note: lora target_modules=lorra: failed: " in again.stdout
    assert read_results(out / "results.jsonl") == results
    assert json.loads((out / "summary.json").read_text()) == summary
