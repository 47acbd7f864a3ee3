"""Parts of the tests that are run more often than all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

Items = list[pytest.Item]


class Lane:
    """A lane as a pytest plugin: ``select`` returns its tests, and the others."""

    def __init__(self, select: Callable[[Iterable[pytest.Item]], tuple[Items, Items]]) -> None:
        self.select = select

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: Items) -> None:
        items[:], left = self.select(items)
        config.hook.pytest_deselected(items=left)
