"""Names of a package that are resolved when first used: importing it loads nothing heavy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
    package: str, home: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return a package's ``__getattr__`` and ``__dir__`` (PEP 562); ``home`` maps name to module.

    ``__getattr__, __dir__ = lazy_names(__name__, {"load": "loading"})``
    """

    def get(name: str) -> Any:
        if name in home:
            from ftplug.quiet import quiet_bitsandbytes

            quiet_bitsandbytes()  # before the name's module imports it
            return getattr(importlib.import_module(f"{package}.{home[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return get, listed
