"""The fast lane leaves out what its rules say, and fails where a module of ours is left out."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from lanes import fast


class Item(SimpleNamespace):
    """Stands where a collected test stands."""

    def iter_markers(self):
        return [SimpleNamespace(name=name) for name in self.marks]


def item(file, function, case="", marks=(), fixtures=()):
    return Item(
        nodeid=f"{file}::{function}[{case}]", path=Path(file), name=function, originalname=function,
        marks=marks, fixturenames=fixtures,
    )  # fmt: skip


def test_of_each_function_the_first_quick_case_is_kept():
    items = [
        item("test_a.py", "test_one", "slowest", marks=["slow"]),
        item("test_a.py", "test_one", "first"),
        item("test_a.py", "test_one", "second"),
        item("test_b.py", "test_one", "first"),
        item("test_b.py", "test_killed", fixtures=["spawner"]),
        item("test_contract.py", "TestLora::test_every_tensor_moves", "bert"),
        item("test_contract.py", "TestLora::test_every_tensor_moves", "t5"),
        item("test_contract.py", "TestFull::test_every_tensor_moves", "bert"),
    ]
    kept, left = fast.select(items)
    assert kept == [items[1], items[3], items[5], items[7]]
    assert left == [one for one in items if one not in kept]


@pytest.mark.parametrize("check", sorted(fast.NOT_OF_THE_CONTRACT))
def test_what_is_left_out_of_the_contract_is_in_it(check):
    from ftplug.testing import MethodContract

    assert hasattr(MethodContract, check)
    kept, _ = fast.select(
        [item(file, check, "bert") for file in ("test_contract.py", "test_other.py")]
    )
    assert [one.path.name for one in kept] == ["test_other.py"]


def test_our_modules_are_found():
    found = fast.modules()
    assert {"ftplug", "ftplug.cli", "ftplug_plugins.lora", "ftplug_registry.server.app"} <= found
    assert "ftplug.__main__" not in found


@pytest.mark.parametrize("missing", [[], ["ftplug.never_imported"]])
def test_a_module_that_no_process_imported_fails_the_lane(monkeypatch, missing):
    """What the workers imported counts, and what this process did."""
    ours = {"ftplug", "ftplug.imported_by_a_worker", *missing}
    monkeypatch.setattr(fast, "modules", lambda: ours)
    lane, lines = fast.FastLane(), []
    lane.pytest_testnodedown(
        SimpleNamespace(workeroutput={"imported": ["ftplug.imported_by_a_worker"]})
    )
    option = SimpleNamespace(collectonly=False, keyword="", markexpr="")
    config = SimpleNamespace(args_source=pytest.Config.ArgsSource.TESTPATHS, option=option)
    session = SimpleNamespace(config=config, exitstatus=pytest.ExitCode.OK)
    lane.pytest_sessionfinish(session)
    lane.pytest_terminal_summary(
        SimpleNamespace(write_line=lambda line, **style: lines.append(line))
    )
    assert session.exitstatus == (pytest.ExitCode.TESTS_FAILED if missing else pytest.ExitCode.OK)
    assert lines == [f"{name}: no test of the fast lane imports it" for name in missing]
