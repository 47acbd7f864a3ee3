"""The table of other people's scripts in docs/scripts.md: python tests/support/scripts_table.py.

It runs every cell, writes what it found to ``tests/scripts/results.json`` and renders that into the
page. ``tests/scripts`` fails where a new run, the file and the page differ.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from folders import script_inputs
from script_cells import CELLS, HERE, METHODS, SCRIPTS, measure

from ftplug.quiet import quiet

RESULTS = HERE / "results.json"
PAGE = HERE.parents[1] / "docs/scripts.md"
_SECTION = re.compile(r"(?<=<!-- scripts -->\n).*?(?=<!-- /scripts -->)", re.DOTALL)


def key(script: str, method: str) -> str:
    """Return a cell's name in the file of results."""
    return f"{script} {method}"


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the results as a markdown table: a row for each script, a column for each method."""
    names = " | ".join(f"`{method}`" for method in METHODS)
    lines = [f"| script | {names} |", "|---" * (1 + len(METHODS)) + "|"]
    for name, script in SCRIPTS.items():
        cells = " | ".join(_shown(results[key(name, method)]) for method in METHODS)
        lines.append(f"| {script.title} | {cells} |")
    return "\n".join(lines) + "\n"


def _shown(cell: Mapping[str, Any]) -> str:
    if "refused" in cell:
        return "refused"
    marks = {True: "✓", False: "✗", None: "–"}  # noqa: RUF001 - an en dash is meant
    return f"{cell['moved']}/{cell['may_train']} {marks[cell['reloads']]} {marks[cell['resumes']]}"


def section(text: str) -> str:
    """Return what stands between the page's two markers."""
    found = _SECTION.search(text)
    assert found, "docs/scripts.md: the markers <!-- scripts --> and <!-- /scripts --> are gone"
    return found[0]


def main() -> None:
    """Run everything and write both files."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder, quiet():
        root = script_inputs(Path(folder))
        results: dict[str, Any] = {}
        for script, method in CELLS:
            with contextlib.redirect_stdout(io.StringIO()):
                found = measure(SCRIPTS[script], method, root, root / key(script, method))
            print(f"{key(script, method)}: {found}")
            results[key(script, method)] = found
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(_SECTION.sub(lambda _: table(results), text), encoding="utf-8")


if __name__ == "__main__":
    main()
