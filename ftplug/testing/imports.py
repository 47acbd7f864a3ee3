"""The imports a module makes while it is imported, read from its source: nothing is run.

Those are the ones at module level or in a class body, in either branch of an ``if`` or ``try``;
not those inside a function, under ``if TYPE_CHECKING`` or under ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HEAVY = ("torch", "transformers", "peft")
_IMPORT_TORCH = ("accelerate", "bitsandbytes", "safetensors.torch", "torchvision", "trl")


@dataclass(frozen=True)
class Import:
    """One import: what is imported, and where that is written."""

    name: str
    file: Path
    line: int

    @property
    def heavy(self) -> bool:
        """Whether it loads torch, transformers or peft."""
        return any(f"{self.name}.".startswith(f"{name}.") for name in (*HEAVY, *_IMPORT_TORCH))


def heavy_import(module: str) -> tuple[Import, ...]:
    """Return the first heavy import that importing a module runs, and what leads to it; or nothing.

    Followed are modules of the same top-level package that have been imported. The last of the
    returned is the heavy one; those before it are imports within the package, in order.
    """
    package = module.partition(".")[0]
    waiting: list[tuple[str, tuple[Import, ...]]] = [(name, ()) for name in _with_parents(module)]
    seen = {name for name, _ in waiting}
    while waiting:
        name, path = waiting.pop(0)
        for imported in _imports(name):
            if imported.heavy:
                return (*path, imported)
            inside = imported.name.partition(".")[0] == package and imported.name in sys.modules
            if inside and imported.name not in seen:
                seen.add(imported.name)
                waiting.append((imported.name, (*path, imported)))
    return ()


def _imports(module: str) -> Sequence[Import]:
    """Return what importing a module that is imported already runs, in order."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if file is None or not file.endswith(".py"):
        return ()
    return _read(Path(file), getattr(loaded, "__package__", None) or "")


@functools.cache
def _read(file: Path, package: str) -> Sequence[Import]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError):  # changed since it was imported
        return ()
    return [
        Import(name, file, node.lineno)
        for node in _statements(tree)
        for name in _names(node, package)
    ]


def _statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements that run at import."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
        return
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and _is_false_at_import(node.test):
        children = node.orelse
    for child in children:
        yield from _statements(child)


def _is_false_at_import(test: ast.expr) -> bool:
    return ast.unparse(test) in (
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
        "__name__ == '__main__'",
    )


def _names(node: ast.Import | ast.ImportFrom, package: str) -> Iterator[str]:
    """Yield every module that a statement imports: parents first, then what it is taken from."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _with_parents(alias.name)
        return
    source = "." * node.level + (node.module or "")
    if node.level:
        source = importlib.util.resolve_name(source, package)
    yield from _with_parents(source)
    for alias in node.names:
        yield f"{source}.{alias.name}"  # a module, or a name in one


def _with_parents(module: str) -> list[str]:
    """``a.b.c`` imports ``a`` and ``a.b`` first."""
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]
