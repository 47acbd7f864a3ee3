"""The fast lane of the tests (``make check``, ``pytest --fast``): minutes less, every module.

Rules choose it, not a list, so that a new test or method is in it at once:

- of every test function the first case;
- of a method's contract the first family that it fits, and the checks that share its one run;
- nothing that has one of ``MARKS``, nor what needs one of ``FIXTURES``.

The lane fails where a module of ours was imported by none of its processes, and names it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from lanes import Lane

PACKAGES = ("ftplug", "ftplug_plugins", "ftplug_registry")
MARKS = {"slow", "real", "ddp", "deepspeed", "venv", "gpu"}
FIXTURES = {"spawner", "resumed"}  # they start processes that train
CONTRACT = "test_contract.py"
# A second run, or a model more, for each method: seconds that the whole suite has.
NOT_OF_THE_CONTRACT = {
    "test_resume_is_bit_equal",
    "test_composes",
    "test_merged_equals_the_forward",
    "test_a_deepcopy_is_independent",
    "test_shares_its_base",
    "test_every_saved_tensor_is_seen",
}


def select(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests of the lane, and the others."""
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    begun: set[str] = set()
    for item in items:
        function = item.nodeid.partition("[")[0]
        fits = _is_quick(item) and function not in begun
        (kept if fits else left).append(item)
        if fits:
            begun.add(function)
    return kept, left


def _is_quick(item: pytest.Item) -> bool:
    if MARKS & {mark.name for mark in item.iter_markers()}:
        return False
    if FIXTURES & set(getattr(item, "fixturenames", ())):
        return False
    function = getattr(item, "originalname", item.name)
    return not (item.path.name == CONTRACT and function in NOT_OF_THE_CONTRACT)


class FastLane(Lane):
    """Chooses the tests, and looks at what they imported."""

    def __init__(self) -> None:
        super().__init__(select)
        self.imported: set[str] = set()
        self.missing: list[str] = []

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.imported.update(getattr(node, "workeroutput", {}).get("imported", ()))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.imported |= {name for name in sys.modules if name.partition(".")[0] in PACKAGES}
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["imported"] = sorted(self.imported)
        elif _is_whole(session.config):
            self.missing = sorted(modules() - self.imported)
            if self.missing and session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for name in self.missing:
            terminalreporter.write_line(f"{name}: no test of the fast lane imports it", red=True)


def _is_whole(config: pytest.Config) -> bool:
    """Whether nobody chose among the lane's tests."""
    option = config.option
    chosen = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    return not (chosen or option.collectonly or option.keyword or option.markexpr)


def modules() -> set[str]:
    """Return the names of all our modules, but of those that Python itself runs in a process."""
    found = set()
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        root = Path(spec.origin).parent
        for path in root.rglob("*.py"):
            parts = path.relative_to(root.parent).with_suffix("").parts
            found.add(".".join(parts).removesuffix(".__init__"))
    return {name for name in found if not name.endswith((".__main__", ".sitecustomize"))}
