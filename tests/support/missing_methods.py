"""Tests that need what the installed peft does not have: they say which version has it.

A test needs the methods that its parameters, its class's ``method`` or a mark ``methods`` name, and
the settings of LoRA that its parameters have.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from ftplug_plugins.peft_bridge import versions
from ftplug_plugins.peft_family.family import types

from ftplug import MethodError


def why_skipped(item: pytest.Item) -> str:
    """Return e.g. ``hira: needs peft ≥ 0.20 (found 0.19.1)``; nothing where all is there."""
    for name in _needed(item):
        if name in types() and (reason := versions.lacking(types()[name]["type"])):
            return f"{name}: {reason}"
    settings = [name for given in _parameters(item) if isinstance(given, dict) for name in given]
    try:
        versions.check_settings("lora", "LORA", settings)
    except MethodError as error:
        return str(error)
    return ""


def _needed(item: pytest.Item) -> Iterator[str]:
    for marker in item.iter_markers("methods"):
        yield from marker.args
    given = [*_parameters(item), getattr(getattr(item, "cls", None), "method", "")]
    for text in given:
        yield from re.findall(r"[\w-]+", text) if isinstance(text, str) else ()


def _parameters(item: pytest.Item) -> list[Any]:
    return list(getattr(getattr(item, "callspec", None), "params", {}).values())
