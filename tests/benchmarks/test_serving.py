"""The page on serving shows what ``make served`` found, and that is what it was given."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
RESULTS = ROOT / "docs" / "serving.json"


def loaded(name):
    spec = importlib.util.spec_from_file_location(
        f"serving_{name}", ROOT / "benchmarks" / "serving" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def test_every_row_of_the_results_stands_in_the_table(found):
    for row in found["rows"]:
        line = f"| {row['server']} | {row['given']} | **{row['verdict']}** |"
        assert line in PAGE
        assert row["figures"] in PAGE
    table = PAGE.partition("<!-- the table -->")[2]
    assert len(re.findall(r"^\| .*\*\*", table, re.MULTILINE)) == len(found["rows"])


def test_each_server_was_found_to_serve_what_it_was_given(found):
    assert {row["server"] for row in found["rows"]} >= {"vLLM", "transformers serve"}
    for row in found["rows"]:
        assert row["verdict"] == row["expected"], row


def test_what_would_bring_another_torch_is_left_out(monkeypatch):
    environment = loaded("environment")
    asked = [
        "torch==2.13.0+cpu", "torchvision; platform_machine != 'riscv64'", "fastapi[standard]>=1",
        "triton; extra == 'gpu'", "six>=1; python_version < '3'",
    ]  # fmt: skip
    monkeypatch.setattr(environment.importlib.metadata, "requires", lambda name: asked)
    assert environment._requirements() == ["fastapi[standard]>=1"]
