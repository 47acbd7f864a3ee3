"""The table of methods and tasks is what the contract says, of the pinned versions."""

from pathlib import Path

import pytest
from contract_table import CHECKS, PAGE, TASKS, case_of, read, render, table_in
from contracts import built_in, contract

from ftplug.testing.checks.model import is_mergeable

RENEW = "stale: python tests/support/contract_table.py"
FOUND = read()
FAMILIES = ("bert", "llama", "t5", "vit")  # the contract's own


def test_the_page_holds_the_table():
    assert table_in(PAGE.read_text(encoding="utf-8")) == render(FOUND["methods"]), RENEW


def test_it_names_every_method_and_task_and_the_pinned_versions():
    assert list(FOUND["methods"]) == built_in(), RENEW
    assert all(list(tasks) == list(TASKS) for tasks in FOUND["methods"].values())
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text("utf-8").split()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert FOUND["versions"] == {n: pinned[n] for n in ("peft", "transformers")}, RENEW


@pytest.mark.parametrize("name", built_in())
def test_it_says_what_the_contract_tests(name):
    declared = contract(name)
    for task, family in TASKS.items():
        if family not in declared.get("families", FAMILIES):
            continue
        found = FOUND["methods"][name][task]
        assert ("refused" in found) == (family in declared.get("unfit", {})), RENEW
        if "refused" not in found:
            merges = is_mergeable(case_of(name, family))
            assert found == dict.fromkeys(CHECKS, True) | {"merge": merges}, RENEW
