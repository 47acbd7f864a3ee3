"""Run all benchmarks, keep what they find, and write it into docs/costs.md: make bench.

Each benchmark is a process of its own, one after the other; leave the machine alone meanwhile (40
minutes). ``--only NAME`` renews a few, ``--render`` writes the page from the file alone. A goal
that is missed is marked where it stands and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from report import MISSED, Found, shown, table

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results.json", HERE.parent / "docs/costs.md"
NAMES = (
    "trunk_cache",
    "training_steps",
    "adapters_beside",
    "attach_overhead",
    "startup",
    "transfer",
    "growth",
    "loading",
    "advice",
)
BY_ITSELF = ("shared_trunk",)  # takes hours
PACKAGES = ("torch", "transformers", "peft", "accelerate", "huggingface-hub", "trl")
SECTION = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)


def run(name: str) -> dict[str, Any]:
    """Run one benchmark; return what it found, and where."""
    print(f"== {name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "found.json")
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(kept)]
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(f"{name} failed: nothing was kept of it")
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found | {"on": where()}


def where() -> dict[str, Any]:
    """Say what was measured on."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"processor": platform.machine(), "cores": os.cpu_count()} | versions


def read() -> dict[str, Any]:
    """Return what was found last time, by benchmark."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


def render(results: Mapping[str, Any]) -> str:
    """Return the page's tables."""
    found = [Found.read({k: v for k, v in results[name].items() if k != "on"}) for name in NAMES]
    parts = [
        table(
            ("A", "B", "A / B (95 % interval)", "medians", "must be"),
            [ratio.cells() for one in found for ratio in one.ratios],
        ),
        table(
            ("what", "measured", "must be"),
            [figure.cells() for one in found for figure in one.figures],
        ),
    ]
    for one in found:
        for series in one.series:
            rows = [[shown(value) for value in row] for row in series.rows]
            parts.append(table(series.columns, rows))
    return "\n".join([*parts, measured_on(results)])


def measured_on(results: Mapping[str, Any]) -> str:
    """Return the line that says with which versions the figures were measured."""
    machines = [results[name]["on"] for name in NAMES]
    lines = {", ".join(f"{p} {on[p]}" for p in PACKAGES if p in on) for on in machines}
    return f"Measured with {'; '.join(sorted(lines))}.\n"


def section(page: str) -> str:
    """Return what stands between the page's two markers."""
    if not (found := SECTION.search(page)):
        raise SystemExit(f"{PAGE.name}: the markers <!-- benchmarks --> … are gone")
    return found[0]


def main() -> int:
    """Renew the results and the page; return 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args()
    results = read() if RESULTS.exists() else {}
    for name in () if options.render else options.only or NAMES:
        results[name] = run(name)
        text = json.dumps(results, indent=1, ensure_ascii=False)
        RESULTS.write_text(text + "\n", encoding="utf-8")
    if missing := [name for name in NAMES if name not in results]:
        raise SystemExit(f"not measured yet: {', '.join(missing)}")
    tables, text = render(results), PAGE.read_text(encoding="utf-8")
    section(text)
    PAGE.write_text(SECTION.sub(lambda _: tables, text), encoding="utf-8")
    missed = tables.count(MISSED)
    print(f"{PAGE.name} holds the tables; {missed or 'no'} goal{'s' * (missed != 1)} missed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
