"""Cells of tests come from the fork server that other tests use, too: a process has one."""

import kills
import pytest

from ftplug.comparing.processes import warm


@pytest.fixture(autouse=True)
def one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "PRELOADED", kills.WARM)
