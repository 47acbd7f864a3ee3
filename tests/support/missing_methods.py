"""Tests that need a method which the installed peft does not have: they say which version has it.

A test needs the methods that its parameters, its class's ``method`` or a mark ``methods`` name.
"""

from collections.abc import Iterator

import pytest
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_family.family import types


def why_skipped(item: pytest.Item) -> str:
    """Return e.g. ``hira: needs peft ≥ 0.20 (found 0.19.1)``; nothing where all is there."""
    for name in _needed(item):
        if name in types() and (reason := versions.lacking(types()[name]["type"])):
            return f"{name}: {reason}"
    return ""


def _needed(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("methods"):
        yield from marker.args
    given = [*getattr(getattr(item, "callspec", None), "params", {}).values()]
    given.append(getattr(getattr(item, "cls", None), "method", ""))
    yield from (name for name in given if isinstance(name, str))
