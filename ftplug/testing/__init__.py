"""The conformance kit for authors of methods: three lines of a pytest file are a test suite.

    from ftplug.testing import MethodContract

    class TestMyMethod(MethodContract):
        method = "my-method"

:class:`MethodContract` says what may be declared beside ``method``. The checks themselves, in
:mod:`ftplug.testing.checks`, are functions of a :class:`Case` and need no pytest:

    from ftplug.testing import Case, checks

    checks.resume_is_bit_equal(Case("lora", "llama", settings={"r": 4}))

:func:`run_view` gives a test of a single hook what the hook takes as ``run``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.lazy import lazy_names

if TYPE_CHECKING:
    from ftplug.testing.case import Case
    from ftplug.testing.contract import MethodContract
    from ftplug.testing.view import run_view

_HOME = {"Case": "case", "MethodContract": "contract", "run_view": "view"}

__all__ = ["Case", "MethodContract", "run_view"]


__getattr__, __dir__ = lazy_names(__name__, _HOME)
