"""Make docs/standings.md: what ``ftplug compare`` says of all methods, on two tasks.

    python benchmarks/standings/standings.py demo      # hours; stopped, it goes on
    python benchmarks/standings/standings.py chat      # hours
    python benchmarks/standings/standings.py --render  # the page, from what is kept

Rates are searched within a budget that is never reached: of each candidate those that are behind
after an epoch are cut short.

What came out is kept beside this file, in ``demo.json`` and ``chat.json``; the comparisons' folders
lie in ``--folder``, and are not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ftplug import discovery
from ftplug.comparing import results as ended
from ftplug.comparing.report import texts
from ftplug.comparing.report.facts import rows
from ftplug.comparing.report.writing import PICTURES
from ftplug.comparing.summary import Summary

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGE, TEMPLATE = DOCS / "standings.md", HERE / "page.md"
PACKAGES = ("ftplug", "torch", "transformers", "peft")
NONE = texts.number(None)
COLUMNS = {
    "name": "candidate",
    "verdict": "verdict",
    "mean": "{metric}",
    "difference": "difference, 95 %",
    "rate": "rate",
    "trained": "trained",
    "training": "training",
    "memory": "memory",
    "artifact": "artifact",
    "forgetting": "forgetting, nats",
}


# Of a method that its name alone does not describe, what somebody would first try.
SETTINGS = {
    "c3a": "c3a block_size=64",
    "freeze": "freeze layers=2",
    "lora-plus": "lora+lora-plus",
    "vblora": "vblora vector_length=64",
}
DECODERS = "is for decoders"
LEFT_OUT = {
    "adaption-prompt": DECODERS,
    "alora": DECODERS,
    "trainable-tokens": "trains the tokens that somebody names",
    "trunk-cache": "trains nothing",
}
BASELINE = "full"
BUDGET = 24 * 60  # minutes

ON_CHATS = (
    "lora",
    "lora target_modules=all-linear use_dora=true",
    "layernorm",
    "freeze layers=2",
    "ia3",
    "bottleneck",
    "prompt-tuning",
    "full",
)


def on_sentences() -> list[str]:
    """Return the candidates on the demo's data, the baseline first."""
    names = [name for name, cls in discovery.methods().items() if not left_out(name, cls)]
    first = [BASELINE, *(name for name in names if name != BASELINE)]
    return [SETTINGS.get(name, name) for name in first]


def left_out(name: str, cls: type) -> str:
    """Return why a method does not stand in the first table; nothing where it does."""
    return LEFT_OUT.get(name) or str(getattr(cls, "refused", ""))


def command(part: str, folder: Path, jobs: int) -> list[str]:
    """Return the comparison of a part, from the options on."""
    if part == "demo":
        tries, more = on_sentences(), ["--seeds", "3", "--budget-minutes", str(BUDGET)]
        script: list[str] = []
    else:
        tries, more = list(ON_CHATS), ["--seeds", "2", "--lr", "3e-4,3e-3"]
        script = ["--", str(HERE / "chat.py"), "--model", str((folder / "smollm2").resolve())]
    tried = [word for text in tries for word in ("--try", text)]
    more += ["--baseline", BASELINE, "--jobs", str(jobs), "--out", str(folder / part)]
    return [*tried, *more, *script]


def compare(part: str, folder: Path, jobs: int) -> None:
    """Run a comparison, or go on with it; keep what came out."""
    options = command(part, folder, jobs)
    subprocess.run([sys.executable, "-m", "ftplug", "compare", *options], check=True)
    keep(part, folder / part, jobs)


def keep(part: str, folder: Path, jobs: int) -> None:
    """Keep a comparison's conclusions, and the figures of its candidates."""
    summary, results = Summary.read(folder), ended.read_results(folder / ended.FILE)
    found = {
        "summary": dataclasses.asdict(summary),
        "candidates": [row_of(row) for row in rows(summary, results)],
        "cells": len(results),
        "failed": {
            r.candidate: r.reason for r in results if r.status not in ("finished", "pruned")
        },
        "on": where(jobs),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (HERE / f"{part}.json").write_text(text, encoding="utf-8")
    for name in PICTURES:
        if name != "epochs.png" and (folder / name).is_file():
            (DOCS / f"standings-{part}-{name}").write_bytes((folder / name).read_bytes())


def row_of(row: Any) -> dict[str, Any]:
    """Return the cells of a candidate's line."""
    one = row.judged
    difference = NONE
    if one.difference is not None:
        difference = f"{texts.signed(one.difference)} ({texts.interval(one.interval)})"
    return {
        "name": f"`{one.candidate}`",
        "verdict": texts.WORDS[one.verdict],
        "mean": texts.number(one.mean),
        "difference": difference,
        "rate": texts.rate(one.lr),
        "trained": texts.count(row.parameters),
        "training": texts.seconds(row.seconds),
        "memory": texts.size(row.memory),
        "artifact": texts.size(row.artifact),
        "forgetting": texts.number(row.forgetting),
        "sorted": one.mean,
    }


def where(jobs: int) -> dict[str, Any]:
    """Say when this was measured, and on what: with ``jobs`` cells at a time."""
    versions = {name: version(name) for name in PACKAGES}
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    machine = f"{os.cpu_count()} cores ({platform.machine()}), no GPU, {jobs} at a time"
    return {"date": date, "machine": machine, "python": platform.python_version()} | versions


def table(found: dict[str, Any]) -> str:
    """Return the table of a part, best mean first."""
    summary = found["summary"]
    forgets = any(row["forgetting"] != NONE for row in found["candidates"])
    keys = [key for key in COLUMNS if forgets or key != "forgetting"]
    turned = 1 if summary["greater_is_better"] else -1
    ordered = sorted(
        found["candidates"],
        key=lambda row: float("inf") if row["sorted"] is None else -turned * row["sorted"],
    )
    head = [COLUMNS[key].format(metric=summary["metric"]) for key in keys]
    lines = [head, ["---"] * len(head), *([row[key] for key in keys] for row in ordered)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def measured_on(found: dict[str, Any]) -> str:
    """Return the line that says when and with what."""
    on = found["on"]
    versions = ", ".join(f"{name} {on[name]}" for name in ("python", *PACKAGES))
    return f"{found['cells']} cells, {on['date']}, {on['machine']}; {versions}.\n"


def render(page: str) -> str:
    """Return the page with the tables of what is kept."""
    for part in ("demo", "chat"):
        begin, end = f"<!-- {part} -->\n", f"<!-- /{part} -->"
        path = HERE / f"{part}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            before, _, rest = page.partition(begin)
            _, _, after = rest.partition(end)
            page = f"{before}{begin}{table(found)}\n{measured_on(found)}{end}{after}"
    return page


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["demo", "chat"], help="demo, chat")
    parser.add_argument("--render", action="store_true", help="write the page alone")
    parser.add_argument("--folder", type=Path, default=Path(".standings"))
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    options = parser.parse_args(arguments)
    if not options.render:
        for part in options.parts or ("demo", "chat"):
            compare(part, options.folder, options.jobs)
    PAGE.write_text(render(TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
