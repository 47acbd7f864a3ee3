"""The built-in methods use nothing of ftplug that a third party's method may not."""

import ast
import importlib
from pathlib import Path

import ftplug_plugins
import pytest

PUBLIC = (
    "ftplug",
    "ftplug.context",
    "ftplug.hookspecs",
    "ftplug.inplace",
    "ftplug.method",
    "ftplug.structure",
    "ftplug.testing",
)

FOLDER = Path(ftplug_plugins.__file__).parent
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))


def private_names(source):
    """Return what a module uses of ftplug that is not public, at any level of its code."""
    nodes = list(ast.walk(ast.parse(source)))
    named = [name for node in nodes for name in imports(node)]
    meaning = dict(named)
    used = {name for _, name in named} | {name for node in nodes for name in by_text(node)}
    for chain in filter(None, map(dotted, nodes)):
        root, _, rest = chain.partition(".")
        used |= {f"{meaning[root]}.{rest}"} if root in meaning else set()
    return sorted(n for n in used if n.split(".")[0] == "ftplug" and not is_public(n))


def imports(node):
    """Yield ``(name here, dotted name)`` of what an import statement binds."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname, alias.name
            if alias.asname is None:
                yield (alias.name.partition(".")[0],) * 2
    elif isinstance(node, ast.ImportFrom) and not node.level:
        for alias in node.names:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def by_text(node):
    """Yield the module that ``importlib.import_module("…")`` names."""
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
        ("import_module", "import__")
    ):
        yield from (a.value for a in node.args if isinstance(getattr(a, "value", None), str))


def dotted(node):
    """Return an attribute such as ``structure.pooler`` as a text; None if it hangs on a call."""
    inner = node
    while isinstance(inner, ast.Attribute):
        inner = inner.value
    plain = isinstance(node, ast.Attribute) and isinstance(inner, ast.Name)
    return ast.unparse(node) if plain else None


def is_public(name):
    """Whether a dotted name is a public module, or in the ``__all__`` of one, or part of such."""
    module, *rest = name.split(".")
    while rest and f"{module}.{rest[0]}" in PUBLIC:
        module = f"{module}.{rest.pop(0)}"
    return not rest or rest[0] in importlib.import_module(module).__all__


@pytest.mark.parametrize("file", FILES)
def test_a_built_in_method_uses_public_names_alone(file):
    private = private_names((FOLDER / file).read_text("utf-8"))
    assert private == []


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from ftplug import Method, hookimpl, structure\nstructure.pooler", []),
        ("from ftplug.method import Kind, LearningRate\nLearningRate.low", []),
        ("import ftplug\nftplug.disabled\nftplug.inplace.wrap_forward", []),
        ("import ftplug.context as c\nc.RunView", []),
        ("from ftplug_plugins.lora import Lora\nfrom ftplugged import x", []),
        ("from ftplug.errors import one_line", ["ftplug.errors.one_line"]),
        ("from ftplug.method import chosen", ["ftplug.method.chosen"]),
        ("from ftplug import host", ["ftplug.host"]),
        ("def f():\n    from ftplug.attaching.plan import Plan", ["ftplug.attaching.plan.Plan"]),
        ("if TYPE_CHECKING:\n    import ftplug.artifacts", ["ftplug.artifacts"]),
        ("from ftplug import structure\nstructure.copy.copy(1)", ["ftplug.structure.copy",
                                                                  "ftplug.structure.copy.copy"]),
        ("import ftplug\nftplug.host.Host", ["ftplug.host", "ftplug.host.Host"]),
        ("importlib.import_module('ftplug.host')", ["ftplug.host"]),
    ],
)  # fmt: skip
def test_every_way_to_a_private_name_is_seen(source, private):
    assert private_names(source) == private
