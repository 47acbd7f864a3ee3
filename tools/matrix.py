"""Run the tests with other versions of the libraries; docs/versions.md keeps what was found.

python tools/matrix.py                                every set with its suites; renews the page
python tools/matrix.py oldest newest --suite core     some of them; the page keeps the others
python tools/matrix.py --pin transformers==5.25.0     a set of your own; the page stays
python tools/matrix.py oldest --fast                  the fast lane of its suites; the page stays
python tools/matrix.py --renew                        newer releases, for the set "newest"
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from version_sets import ROOT, TABLE, VersionSet, build, read, renew

RESULTS = ROOT / "docs/versions.json"
PAGE = ROOT / "docs/versions.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->"
SHOWN = ("transformers", "peft", "huggingface-hub", "accelerate", "trl", "sentence-transformers")


def installed(versions: VersionSet) -> dict[str, str]:
    """Return the versions that the tests of this set see."""
    asked = f"from importlib.metadata import version\nfor n in {SHOWN}: print(version(n))"
    command = [sys.executable, "-c", asked]
    done = subprocess.run(
        command, env=versions.environment(), capture_output=True, text=True, check=True
    )
    return dict(zip(SHOWN, done.stdout.split(), strict=True))


def run(versions: VersionSet, arguments: list[str], workers: int) -> dict[str, Any]:
    """Run one suite; failures go to the terminal, counts are returned."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--numprocesses", str(workers), "--dist", "loadscope",
             f"--junit-xml={report}", *arguments],
            cwd=ROOT, env=versions.environment(), check=False,
        )  # fmt: skip
        if done.returncode not in (0, 1):  # passed, or tests failed: else it did not run them
            raise SystemExit(
                f"{versions.name}: pytest ended with {done.returncode}: {' '.join(arguments)}"
            )
        suite = next(ElementTree.parse(report).iter("testsuite")).attrib
    count = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return {"passed": passed, "failed": failed, "skipped": count["skipped"]}


def render(results: Mapping[str, Mapping[str, Any]], suites: Mapping[str, Any]) -> str:
    """Return the results as a markdown table, a row for each set."""
    head = ["set", *SHOWN, *suites, "date"]
    rows = [head, ["---"] * len(head)]
    for name, found in results.items():
        versions = [found["versions"][library] for library in SHOWN]
        cells = [_cell(found["suites"].get(suite)) for suite in suites]
        rows.append([name, *versions, *cells, found["date"]])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _cell(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return ""
    return f"**{counts['failed']} failed**" if counts["failed"] else f"{counts['passed']} ✓"


def table_in(page: str) -> str:
    """Return the table that stands in the page."""
    return page.partition(BEGIN)[2].partition(END)[0]


def examine(versions: VersionSet, suites: Mapping[str, list[str]], workers: int) -> dict[str, Any]:
    """Run these suites on a set, and return what the page keeps of it."""
    found: dict[str, Any] = {"versions": installed(versions), "suites": {}}
    for suite, arguments in suites.items():
        print(f"{versions.name}: {suite}", flush=True)
        found["suites"][suite] = run(versions, arguments, workers)
    return found | {"date": datetime.date.today().isoformat()}


def keep(name: str, found: Mapping[str, Any]) -> None:
    """Write what was found into the results and the page, beside suites that ran before on it."""
    sets, suites = read()
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    before = results.get(name, {})
    if before.get("versions") == found["versions"]:
        found = {**found, "suites": before["suites"] | found["suites"]}
    results[name] = found
    ordered = {name: results[name] for name in sets if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    old = BEGIN + table_in(page) + END
    PAGE.write_text(page.replace(old, BEGIN + render(ordered, suites) + END), encoding="utf-8")


def arguments() -> argparse.Namespace:
    """Return the command line, with the sets that it names."""
    sets, suites = read()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{', '.join(sets)}; none: all")
    parser.add_argument("--suite", nargs="+", choices=suites, default=None)
    parser.add_argument("--pin", nargs="+", metavar="NAME==VERSION", help="a set of your own")
    parser.add_argument("--fast", action="store_true", help="the suites' fast lane, for no page")
    parser.add_argument("--workers", type=int, default=3, metavar="N")
    parser.add_argument("--build", action="store_true", help="install the sets, and run nothing")
    parser.add_argument("--renew", action="store_true", help="look for newer releases, no more")
    parser.add_argument("--no-page", action="store_true", help="leave docs/versions.md as it is")
    options = parser.parse_args()
    if unknown := [name for name in options.sets if name not in sets]:
        parser.error(f"no set {unknown[0]!r} in {TABLE.name}: {', '.join(sets)}")
    if options.pin:
        options.sets = [VersionSet("own", pins=options.pin, suites=sets["pinned"].suites)]
    else:
        options.sets = [sets[name] for name in options.sets or sets]
    options.no_page = options.no_page or options.pin or options.fast
    return options


def main() -> None:
    """Build the sets that were asked for, run their suites, say what failed."""
    options, suites = arguments(), read()[1]
    if options.renew:
        renew()
        return
    failed = []
    for versions in options.sets:
        build(versions)
        if options.build:
            continue
        if versions.name != "pinned" and not versions.differs():
            print(f"{versions.name}: nothing differs from the pinned set, which make test runs")
            continue
        chosen = options.suite or versions.suites
        lane = ["--fast"] if options.fast else []
        found = examine(versions, {n: [*suites[n], *lane] for n in chosen}, options.workers)
        counts = found["suites"].items()
        failed += [f"{versions.name}: {s}: {c['failed']} failed" for s, c in counts if c["failed"]]
        if not options.no_page:
            keep(versions.name, found)
    if not options.build:
        print("\n".join(failed) or "all passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
