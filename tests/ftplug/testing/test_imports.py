"""A method's module, and what it imports of its own package, leaves torch to the hooks."""

import importlib
import sys

import pytest

from ftplug import discovery
from ftplug.testing import Case, checks
from ftplug.testing.imports import heavy_import

METHOD = """
from dataclasses import dataclass
from ftplug import Method

@dataclass(frozen=True, eq=False)
class Mine(Method):
    name = "mine"
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package ``mine`` whose module ``mine.method`` has the method; return the writer."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(before="", **others):
        for name, text in {**others, "method": before + METHOD}.items():
            (folder / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module("mine.method").Mine

    yield write
    for name in [n for n in sys.modules if n == "mine" or n.startswith("mine.")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "line", "name"),
    [
        ("import torch", 1, "torch"),
        ("import json, torch.nn as nn", 1, "torch"),
        ("import json\nfrom transformers import Trainer", 2, "transformers"),
        ("from peft.tuners import lora", 1, "peft"),
        ("from safetensors.torch import save_file", 1, "safetensors.torch"),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None", 2, "torch"),
        ("if 1:\n    pass\nelse:\n    import torch", 4, "torch"),
        ("class A:\n    import torch", 2, "torch"),
        ("from typing import TYPE_CHECKING\nif not TYPE_CHECKING:\n    import torch", 3, "torch"),
        ("import typing\nif typing.TYPE_CHECKING: ...\nelse:\n    import torch", 4, "torch"),
    ],
)
def test_a_heavy_import_is_named_with_file_and_line(package, source, line, name):
    case = Case(package(f"{source}\n"))
    at = rf"mine/method\.py:{line}: {name} is imported at module level: import it inside the hooks"
    with pytest.raises(AssertionError, match=rf"^mine on bert: \S+{at}"):
        checks.heavy_imports_are_lazy(case)


@pytest.mark.parametrize(
    "source",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        "import typing\nif typing.TYPE_CHECKING:\n    from peft import PeftConfig",
        "def hook():\n    import torch\n\nasync def other():\n    from peft import PeftConfig",
        "class A:\n    def hook(self):\n        import transformers",
        "if __name__ == '__main__':\n    import torch",
        "import safetensors",
        "from json import loads as torch",
        "def later():\n    from mine import layers",
        "import ftplug.inplace",
    ],
)
def test_what_runs_later_or_never_is_allowed(package, source):
    method = package(f"{source}\n", layers="import torch\n")
    importlib.import_module("mine.layers")  # as a hook has done by now
    checks.heavy_imports_are_lazy(Case(method))


@pytest.mark.parametrize(
    "source",
    [
        "from mine import layers",
        "import mine.layers",
        "from .layers import torch as t",
        "from . import layers",
        "from .deep import thing",
    ],
)
def test_a_module_of_the_same_package_is_followed(package, source):
    deep = {"deep": "from .layers import thing\n", "layers": "\nimport torch\nthing = 1\n"}
    case = Case(package(f"{source}\n", **deep))
    way = r", by way of .*mine\.layers \(\S+\.py:1\)"
    with pytest.raises(AssertionError, match=rf"mine/layers\.py:2: torch is imported.*{way}"):
        checks.heavy_imports_are_lazy(case)


def test_what_the_package_itself_imports_counts(package, tmp_path):
    (tmp_path / "mine/__init__.py").write_text("import torch\n")
    with pytest.raises(AssertionError, match=r"mine/__init__\.py:1: torch is imported"):
        checks.heavy_imports_are_lazy(Case(package()))


def test_a_class_without_a_file_has_nothing_to_read(monkeypatch):
    names = {"__name__": "typed_in"}
    monkeypatch.setitem(sys.modules, "typed_in", type(sys)("typed_in"))
    exec(f"import torch\n{METHOD}", names)
    checks.heavy_imports_are_lazy(Case(names["Mine"]))


def test_the_built_in_methods_keep_it():
    modules = {entry.value.partition(":")[0] for [entry] in discovery.entries().values()}
    assert len(modules) > 10
    assert {name: heavy_import(importlib.import_module(name).__name__) for name in modules} == (
        dict.fromkeys(modules, ())
    )
