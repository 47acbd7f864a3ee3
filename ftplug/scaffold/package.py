"""``ftplug new``: write the package of a new method, ready to install and to be changed."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from ftplug import __version__, discovery
from ftplug.errors import FtplugError
from ftplug.files.staged import staged
from ftplug.files.write_errors import stated_write_errors

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Names:
    """How a method ``my-method`` is called in its package."""

    name: str

    @property
    def distribution(self) -> str:
        """``ftplug-my-method``."""
        return f"ftplug-{self.name}"

    @property
    def module(self) -> str:
        """``ftplug_my_method``."""
        return self.distribution.replace("-", "_")

    @property
    def attribute(self) -> str:
        """``my_method_scale``."""
        return f"{self.name.replace('-', '_')}_scale"

    @property
    def title(self) -> str:
        """``My method``."""
        return self.name.replace("-", " ").capitalize()

    @property
    def cls(self) -> str:
        """``MyMethod``; never a word that the module needs itself."""
        camel_case = "".join(part.capitalize() for part in self.name.split("-"))
        taken = camel_case in {"Method", "Annotated", "Ge"} or keyword.iskeyword(camel_case)
        return f"{camel_case}Plugin" if taken or camel_case == "LearningRate" else camel_case


def write_package(name: str, to: Path | None = None) -> Path:
    """Write module, ``pyproject.toml``, contract test and README of a method; return the folder.

    ``to`` is the folder, ``ftplug-NAME`` by default. Raises :class:`FtplugError` for a name that is
    no name of a method or is taken, and for a folder that holds something.
    """
    names = Names(_free(name))
    folder = to if to is not None else Path(names.distribution)
    with stated_write_errors(folder), staged(folder, "pyproject.toml", exist_ok=False) as stage:
        for file, content in _render(names).items():
            (stage / file).write_text(content, encoding="utf-8")
    return folder


def next_steps(name: str, folder: Path) -> str:
    """Return what to do with a package just written."""
    names = Names(name)
    return (
        f"{folder}: the method is {names.module}.py; it works already, so change it step by step\n"
        f"\n  pip install -e '{folder}[test]'\n  pytest {folder}\n  ftplug methods {name}\n"
        f"  ftplug run --method {name} --lr suggested -- train.py\n"
    )


def _free(name: str) -> str:
    """Return a name that may be a method's and that no installed method has."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise FtplugError(
            f"{name!r} cannot name a method: lower-case letters and digits, joined by dashes, "
            "e.g. my-method"
        )
    if taken := discovery.entries().get(name):
        raise FtplugError(
            f"a method {name!r} is installed already, from {taken[0].distribution} "
            f"{taken[0].version}: choose another name"
        )
    return name


def _render(names: Names) -> dict[str, str]:
    """Return the package's files by name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    files = {
        "pyproject.toml": "pyproject.toml.jinja",
        f"{names.module}.py": "method.py.jinja",
        f"test_{names.module}.py": "test_method.py.jinja",
        "README.md": "README.md.jinja",
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    values = {
        field: getattr(names, field)
        for field in ("name", "distribution", "module", "attribute", "title", "cls")
    }
    return {
        file: environment.get_template(template).render(values, version=__version__)
        for file, template in files.items()
    }
