"""The table of methods under DeepSpeed is whole, in the page, and of the pinned versions."""

from pathlib import Path

import pytest
from contracts import built_in
from zero_table import PAGE, STAGES, difference, read, render, table_in, verdict

RENEW = "stale: make zero"
FOUND = read()


def test_the_page_holds_the_table():
    assert table_in(PAGE.read_text(encoding="utf-8")) == render(FOUND["methods"]), RENEW


def test_it_names_every_method_and_stage_and_the_pinned_versions():
    assert list(FOUND["methods"]) == built_in(), RENEW
    assert all(list(stages) == list(STAGES) for stages in FOUND["methods"].values())
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text("utf-8").split()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert FOUND["versions"] == {n: pinned[n] for n in FOUND["versions"]}, RENEW
    assert "deepspeed" in FOUND["versions"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_method_trains_as_under_ddp_or_is_refused_by_name(stage):
    other = [name for name, found in FOUND["methods"].items() if found[stage]["is"] == "other"]
    assert other == []


def test_what_counts_as_what():
    import torch

    weights = {"a": torch.zeros(2), "x.key.bias": torch.zeros(2)}
    near = {"a": torch.tensor([0.0, 5e-7]), "x.key.bias": torch.ones(2)}
    far = {"a": torch.tensor([0.0, 1e-3]), "x.key.bias": torch.zeros(2)}
    plain = [(weights, []), (weights, [])]
    assert verdict("lora", plain, plain)["is"] == "bits"
    assert verdict("lora", plain, [(near, []), (near, [])])["is"] == "close"
    assert verdict("lora", plain, [(weights, []), (far, [])])["is"] == "other"
    assert verdict("lora", plain, [(weights, []), (weights, ["a"])])["is"] == "other"
    assert verdict("lora", plain, "rank 1 failed")["is"] == "other"
    line = ("MethodError: lora: not so", None)
    assert verdict("lora", plain, [line, line])["is"] == "refused"
    assert verdict("full", plain, [line, line])["is"] == "other"  # another method's name
    assert verdict("lora", plain, [line, ("MethodError: lora: else", None)])["is"] == "other"
    assert difference({"a": torch.tensor([1])}, {"a": torch.tensor([2])}) == float("inf")
