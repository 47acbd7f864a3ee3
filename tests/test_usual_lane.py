"""The usual lane has every test and every value, and drops combinations alone."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
from lanes import usual


def case(function, file="test_a.py", cls=None, **params):
    """Return what stands where a collected test stands."""
    name = f"{file}::{function}[{'-'.join(map(str, params.values()))}]"
    call = SimpleNamespace(params=params)
    return SimpleNamespace(nodeid=name, path=Path(file), cls=cls, callspec=call)


def kept(items):
    chosen, left = usual.select(items)
    assert len(chosen) + len(left) == len(items)
    return chosen


@pytest.mark.parametrize(
    "sizes", [(20, 13), (13, 20), (7, 7), (6, 3, 2), (2, 3, 6), (2, 2, 2, 2), (30, 3)]
)
def test_of_combinations_every_value_occurs_and_meets_two_of_another_list(sizes):
    items = [
        case("test_it", **{f"list{i}": value for i, value in enumerate(values)})
        for values in itertools.product(*map(range, sizes))
    ]
    chosen = kept(items)
    assert len(chosen) <= min(2 * max(sizes) + sum(sizes), len(items) - 1)
    for number, size in enumerate(sizes):
        found = [one.callspec.params[f"list{number}"] for one in chosen]
        assert set(found) == set(range(size))
        assert min(found.count(value) for value in range(size)) >= 2


def test_what_some_combinations_lack_occurs_too():
    """Where a diagonal has a hole another case takes its place."""
    pairs = [(a, b) for a in range(12) for b in range(4) if (a, b) not in {(3, 3), (3, 0)}]
    chosen = kept([case("test_it", a=a, b=b) for a, b in pairs])
    assert {one.callspec.params["a"] for one in chosen} == set(range(12))


@pytest.mark.parametrize(
    "params",
    [
        [{"a": number} for number in range(40)],  # one list
        [{"given": number, "expected": number % 2} for number in range(40)],  # examples
        [{"a": a, "b": b} for a in range(4) for b in range(2)],  # a few
        [{"a": number // 2 if number < 6 else number, "b": number % 3} for number in range(12)],
    ],
)
def test_what_is_no_long_combination_stays_whole(params):
    items = [case("test_it", **each) for each in params]
    assert kept(items) == items


def test_a_test_without_cases_stays():
    plain = SimpleNamespace(nodeid="test_a.py::test_it", path=Path("test_a.py"), cls=None)
    assert kept([plain]) == [plain]


def test_of_a_contract_the_first_family_is_whole_and_the_others_share_the_checks():
    checks, families = [f"test_{n}" for n in range(9)], ["bert", "llama", "t5"]
    items = [
        case(f"Test{method}::{check}", "test_contract.py", object, case=family)
        for method in range(6)
        for check in checks
        for family in families
    ]
    chosen = {
        (one.nodeid.split("::")[1], one.nodeid.split("::")[2].partition("[")[0], family)
        for one in kept(items)
        for family in [one.callspec.params["case"]]
    }
    for method in range(6):
        own = {(c, f) for m, c, f in chosen if m == f"Test{method}"}
        assert {c for c, f in own if f == "bert"} == set(checks)
        assert sum(f != "bert" for _, f in own) == 2 * len(checks) / 3
    for check, family in itertools.product(checks, families):
        assert any((c, f) == (check, family) for _, c, f in chosen)
