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

from jinja2 import Template

from ftplug import discovery
from ftplug.comparing import results as ended
from ftplug.comparing.choosing import at_edge
from ftplug.comparing.report import texts
from ftplug.comparing.report.facts import rows
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Summary

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PAGE, TEMPLATE = DOCS / "standings.md", HERE / "page.md.jinja"
PACKAGES = ("ftplug", "torch", "transformers", "peft")
NONE = texts.number(None)
COLUMNS = {
    "name": "candidate",
    "verdict": "verdict",
    "mean": "{metric}",
    "difference": "difference, 95 %",
    "rate": "rate",
    "trained": "trained",
    "training": "training, CPU",
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
PARTS = ("demo", "chat")
BASELINE = "full"
BUDGET = 24 * 60  # minutes
EPOCHS, STEPS = 2, 30

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
        script = ["--", "--epochs", str(EPOCHS)]
    else:
        tries, more = list(ON_CHATS), ["--seeds", "2", "--lr", "3e-4,3e-3"]
        script = ["--", str(HERE / "chat.py"), "--model", str((folder / "smollm2").resolve())]
        script += ["--steps", str(STEPS)]
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
        "candidates": [row_of(row, results) for row in rows(summary, results)],
        "cells": len(results),
        "failed": {
            r.candidate: r.reason for r in results if r.status not in ("finished", "pruned")
        },
        "on": where(jobs),
    }
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (HERE / f"{part}.json").write_text(text, encoding="utf-8")
    if (picture := folder / "difference.png").is_file():  # the others are too full
        (DOCS / f"standings-{part}-difference.png").write_bytes(picture.read_bytes())


def row_of(row: Any, results: Sequence[Result]) -> dict[str, Any]:
    """Return the cells of a candidate's line; a rate with a star has none beside it."""
    one = row.judged
    star = "*" if at_edge(results, one.candidate, one.lr) else ""
    difference = NONE
    if one.difference is not None:
        difference = f"{texts.signed(one.difference)} ({texts.interval(one.interval)})"
    return {
        "name": f"`{one.candidate}`",
        "verdict": texts.WORDS[one.verdict],
        "mean": texts.number(one.mean),
        "difference": difference,
        "rate": texts.rate(one.lr) + star,
        "trained": texts.count(row.parameters),
        "training": texts.seconds(row.cpu_seconds),
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
    """Return the page with what is kept, without the sections of what is not."""
    parts = {}
    for path in (HERE / f"{part}.json" for part in PARTS):
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            parts[path.stem] = f"{table(found)}\n{measured_on(found)}".rstrip()
    text: str = Template(page, trim_blocks=True, autoescape=False).render(parts)
    return text.rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--render", action="store_true", help="write the page alone")
    parser.add_argument("--folder", type=Path, default=Path(".standings"))
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    options = parser.parse_args(arguments)
    if not options.render:
        for part in PARTS if "all" in options.parts else options.parts:
            compare(part, options.folder, options.jobs)
    PAGE.write_text(render(TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
