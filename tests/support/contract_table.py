"""The table of methods and tasks in docs/methods.md, from what the contract finds.

``python tests/support/contract_table.py`` runs the contract of every built-in method on every task
(some minutes), keeps what it found in ``contract_table.json`` and writes the table into the page.
``--only lora ia3`` renews a few methods, ``--check take-off share`` these checks of all;
``--render`` writes the page from the file alone.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from contracts import built_in, contract

from ftplug.errors import MethodError
from ftplug.testing import Case, checks
from ftplug.testing.ddp import ranks_agree

FOUND = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[2] / "docs/methods.md"
BEGIN, END = "<!-- methods by task -->\n", "<!-- /methods by task -->"

TASKS = {
    "classification": "bert",
    "token": "bert-token",
    "causal": "llama",
    "seq2seq": "t5",
    "vision": "vit",
}
CHECKS = {
    "resume": checks.resume_is_bit_equal,
    "best": checks.the_best_model_is_restored,
    "merge": checks.merged_equals_the_forward,
    "DDP": ranks_agree,
    "compose": checks.composes,
    "share": checks.shares_its_base,
    "take-off": checks.detaches,
}
LETTERS = {name: name[0].upper() for name in CHECKS}


def case_of(name: str, family: str) -> Case:
    """Return the case that the contract of a built-in method makes."""
    declared = {k: v for k, v in contract(name).items() if k not in ("families", "unfit")}
    return Case(**declared, family=family)


def find(name: str, family: str, wanted: Collection[str] = tuple(CHECKS)) -> dict[str, Any]:
    """Run checks of a method on a family; what does not hold is said on stderr."""
    case = case_of(name, family)
    try:
        case.prepared()
    except AssertionError as error:
        if not isinstance(error.__cause__, MethodError):
            raise
        return {"refused": str(error.__cause__)}
    case = replace(case, mergeable=True)  # so that the check says whether it is
    found = {}
    for what in wanted:
        try:
            CHECKS[what](case)
        except AssertionError as error:
            print(f"{what}: {error}", file=sys.stderr)
            found[what] = False
        else:
            found[what] = True
    return found


def render(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table; methods of which the same holds share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, tasks in methods.items():
        cells = tuple(_cell(tasks[task]) for task in TASKS)
        rows.setdefault(cells, []).append(f"`{name}`")
    head = ["method", *TASKS]
    lines = [
        head,
        ["---"] * len(head),
        *([", ".join(names), *cells] for cells, names in rows.items()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(found: Mapping[str, Any]) -> str:
    if "refused" in found:
        return "-"
    return "".join(LETTERS[what] if found.get(what) else "·" for what in CHECKS)


def table_in(page: str) -> str:
    """Return the table that stands in the page."""
    return page.partition(BEGIN)[2].partition(END)[0]


def read() -> dict[str, Any]:
    """Return what was found last time."""
    found: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8"))
    return found


def write(methods: Mapping[str, Any]) -> None:
    """Keep what was found and put the table into the page."""
    versions = {name: version(name) for name in ("peft", "transformers")}
    content = {"versions": versions, "methods": methods}
    FOUND.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    table = BEGIN + render(methods) + END
    PAGE.write_text(re.sub(pattern, lambda _: table, text, flags=re.S), encoding="utf-8")


def renew(
    names: Iterable[str], known: Mapping[str, Any], wanted: Collection[str]
) -> dict[str, Any]:
    """Run checks of these methods on every task; what is ``known`` of others stays."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    found = {}
    for name in names:
        found[name] = {
            task: known.get(name, {}).get(task, {}) | find(name, family, wanted)
            for task, family in TASKS.items()
        }
        print(name, *(_cell(cell) for cell in found[name].values()), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=built_in(), metavar="METHOD")
    parser.add_argument("--check", nargs="+", choices=CHECKS, metavar="CHECK")
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    known = read()["methods"] if options.only or options.check or options.render else {}
    if not options.render:
        earlier = known if options.check else {}
        known |= renew(options.only or built_in(), earlier, options.check or tuple(CHECKS))
    write({name: known[name] for name in built_in()})


if __name__ == "__main__":
    main()
