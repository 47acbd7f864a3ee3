"""The table of methods under DeepSpeed in docs/processes.md, from what two processes find.

``make zero`` trains every built-in method under DDP and under each ZeRO stage, keeps what it found
in ``zero_table.json`` and writes the table into the page. ``--only lora ia3`` renews a few methods,
``--render`` writes the page from the file alone; both need ``tests/support`` on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ranks
import torch
import zero_ranks
from contracts import EVERYWHERE, built_in, contract

FOUND = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).resolve().parents[3] / "docs/processes.md"
BEGIN, END = "<!-- methods under DeepSpeed -->\n", "<!-- /methods under DeepSpeed -->"

STAGES = ("1", "2", "3")
STEPS = 16
CLOSE, NEAR = 1e-6, 1e-5

# Softmax does not see the bias of the keys. Its gradient is rounding, of which Adam makes steps.
NO_GRADIENT = re.compile(r"(key|k_proj|attention\.k)\.bias$")


def methods_of(name: str) -> tuple[str, dict[str, Any]]:
    """Return the first family that a built-in method fits, and ``{method: settings}``."""
    declared = contract(name)
    unfit = declared.get("unfit", {})
    families = [f for f in declared.get("families", EVERYWHERE) if f not in unfit]
    methods = {name: dict(declared.get("settings", {}))}
    return (families or ["bert"])[0], methods | {
        other: {"r": 4} for other in declared.get("beside", ())
    }


def answer_of(methods: dict[str, Any], family: str, stage: int) -> list[Any] | str:
    """Return what both processes end with, or one line where they do not end as they should."""
    with tempfile.TemporaryDirectory(prefix="ftplug-zero-") as out:
        call = {"methods": methods, "out": Path(out), "family": family, "steps": STEPS}
        try:
            if stage:
                return zero_ranks.both(zero_ranks.ended, **call, stage=stage)
            return ranks.both(ranks.ended, **call)
        except AssertionError as error:
            return " ".join(str(error).split())[-300:]


def verdict(name: str, plain: list[Any] | str, answer: list[Any] | str) -> dict[str, Any]:
    """Return what holds: ``bits``, ``close``, ``near`` or ``refused``; else ``other``, and why."""
    if isinstance(answer, str):
        return {"is": "other", "said": answer}
    said = [first for first, _ in answer]
    if all(isinstance(line, str) for line in said):
        named = said[0] == said[1] and name in said[0].partition(": ")[2].partition(":")[0]
        return {"is": "refused" if named else "other", "said": said[0]}
    if isinstance(plain, str) or isinstance(plain[0][0], str):
        return {"is": "other", "said": "DDP alone does not train it"}
    differs = max(difference(plain[0][0], ended) for ended, _ in answer)
    if changed := [names for _, names in answer if names]:
        return {"is": "other", "said": f"a resumed run ends with another {changed[0][0]}"}
    if differs > NEAR:
        return {"is": "other", "said": f"differs from DDP by {differs:.1e}"}
    within = "near" if differs > CLOSE else "close"
    return {"is": within if differs else "bits", "difference": differs}


def difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """Return the largest difference of two runs' tensors; whole numbers and names must be equal."""
    assert one.keys() == other.keys()
    largest = 0.0
    for name, value in one.items():
        if value.equal(other[name]) or NO_GRADIENT.search(name):
            continue
        if not value.is_floating_point():
            return float("inf")
        largest = max(largest, float((value.double() - other[name].double()).abs().max()))
    return largest


def find(name: str) -> dict[str, Any]:
    """Return what holds of a method under DDP and each stage."""
    family, methods = methods_of(name)
    plain = answer_of(methods, family, 0)
    if not isinstance(plain, str) and isinstance(plain[0][0], str):
        return {stage: {"is": "refused", "said": plain[0][0], "ddp": True} for stage in STAGES}
    found = {}
    for stage in STAGES:
        found[stage] = verdict(name, plain, answer_of(methods, family, int(stage)))
    return found


SAYS = {
    "bits": "bits",
    "close": "≤ 1e-6",
    "near": "≤ 1e-5",
    "refused": "refused",
    "other": "**other**",
}


def render(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table; methods of which the same holds share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, stages in methods.items():
        cells = tuple(_cell(stages[stage]) for stage in STAGES)
        rows.setdefault(cells, []).append(f"`{name}`")
    lines = [["method", *(f"ZeRO-{stage}" for stage in STAGES)], ["---"] * (1 + len(STAGES))]
    ordered = sorted(rows.items(), key=lambda row: -len(row[1]))
    lines += [[", ".join(names), *cells] for cells, names in ordered]
    lines.append(["**pass / refused by name / other**", *(_counts(methods, s) for s in STAGES)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(found: Mapping[str, Any]) -> str:
    return "refused, under DDP too" if found.get("ddp") else SAYS[found["is"]]


def _counts(methods: Mapping[str, Mapping[str, Any]], stage: str) -> str:
    found = [stages[stage]["is"] for stages in methods.values()]
    passed = sum(found.count(kind) for kind in ("bits", "close", "near"))
    return f"{passed} / {found.count('refused')} / {found.count('other')}"


def table_in(page: str) -> str:
    """Return the table that stands in the page."""
    return page.partition(BEGIN)[2].partition(END)[0]


def read() -> dict[str, Any]:
    """Return what was found last time."""
    found: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8"))
    return found


def write(methods: Mapping[str, Any], versions: Mapping[str, str]) -> None:
    """Keep what was found and put the table into the page."""
    content = {"versions": versions, "methods": methods}
    FOUND.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    table = BEGIN + render(methods) + END
    PAGE.write_text(re.sub(pattern, lambda _: table, text, flags=re.S), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=built_in(), metavar="METHOD")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    before = read() if options.only or options.render else {"methods": {}, "versions": {}}
    known, versions = before["methods"], before["versions"]
    if not options.render:
        if reason := zero_ranks.why_skipped():
            print(f"skipped: {reason}")
            return 0
        versions = {name: version(name) for name in ("deepspeed", "peft", "transformers")}
    for name in () if options.render else options.only or built_in():
        known[name] = find(name)
        print(name, *(known[name][stage]["is"] for stage in STAGES), flush=True)
        write({name: known[name] for name in built_in() if name in known}, versions)
    write(known, versions)
    others = [
        (n, s, c["said"]) for n, f in known.items() for s, c in f.items() if c["is"] == "other"
    ]
    for name, stage, said in others:
        print(f"{name}, ZeRO-{stage}: {said}", file=sys.stderr)
    return int(bool(others))


if __name__ == "__main__":
    sys.exit(main())
