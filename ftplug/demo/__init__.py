"""The demo: fine-tune MiniLM on review sentences with any method, from what ships with packages.

Reading order: ``data`` (the sentences and their split), ``minilm`` (the base model), ``metrics``,
``predict``, ``progress``, ``run`` (the whole of it), ``report`` (what comes out).
"""

from __future__ import annotations

from ftplug.demo.report import DemoResult, print_report
from ftplug.demo.run import run_demo

__all__ = ["DemoResult", "print_report", "run_demo"]
