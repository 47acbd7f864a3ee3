"""The usual lane of the tests (``make test``, ``pytest --usual``): every test, not every case.

Rules choose it, not a list:

- of a test whose cases combine values (methods, features, architectures), more than ``WHOLE`` of
  them and each value in two or more, those on two diagonals, so that a value meets two of another
  list; and those that hold what would be in none: every value occurs;
- of a method's contract all that its first family has, and on each other one a third of the checks,
  another third for the next method and family.

``make tests`` has them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

WHOLE = 8  # cases of a test that are left as they are
CONTRACT = "test_contract.py"


def select(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests of the lane, and the others."""
    items = list(items)
    functions: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        functions[item.nodeid.partition("[")[0]].append(item)
    contract = {name: cases for name, cases in functions.items() if _is_contract(cases[0])}
    kept = {id(item) for item in _of_the_contract(contract)}
    for name, cases in functions.items():
        if name not in contract:
            kept.update(map(id, _of_a_test(cases)))
    left = [item for item in items if id(item) not in kept]
    return [item for item in items if id(item) in kept], left


def _is_contract(item: pytest.Item) -> bool:
    return item.path.name == CONTRACT and getattr(item, "cls", None) is not None


def _of_the_contract(checks: dict[str, list[pytest.Item]]) -> Iterable[pytest.Item]:
    numbers: dict[str, dict[str, int]] = defaultdict(dict)  # of a method: its checks in their order
    for function, cases in checks.items():
        _, method, check = function.split("::")
        number = numbers[method].setdefault(check, len(numbers[method])) + len(numbers)
        for family, case in enumerate(cases):
            if not family or (number + family) % 3 == 0:
                yield case


def _of_a_test(cases: Sequence[pytest.Item]) -> Iterable[pytest.Item]:
    lists = _lists(cases)
    sizes = [len(set(each)) for each in lists]
    if len(cases) <= max([WHOLE, *(2 * size - 1 for size in sizes)]):  # examples, no combinations
        return cases
    places = list(zip(*lists, strict=True))
    longest = sizes.index(max(sizes))
    others = [number for number in range(len(sizes)) if number != longest]
    chosen = {
        index
        for index, place in enumerate(places)
        for shift in (0, 1)
        if all(place[each] == (place[longest] + shift) % sizes[each] for each in others)
    }
    seen = {pair for index in chosen for pair in enumerate(places[index])}
    for index, place in enumerate(places):
        if not seen.issuperset(enumerate(place)):
            chosen.add(index)
            seen.update(enumerate(place))
    return [cases[index] for index in sorted(chosen)]


def _lists(cases: Sequence[pytest.Item]) -> list[list[int]]:
    """Return for each argument which of its values each case has, by number."""
    calls: list[Any] = [getattr(case, "callspec", None) for case in cases]
    if not all(calls):
        return []
    found = []
    for name in calls[0].params:
        numbers: dict[str, int] = {}
        values = [repr(call.params.get(name)) for call in calls]
        found.append([numbers.setdefault(value, len(numbers)) for value in values])
    return found
