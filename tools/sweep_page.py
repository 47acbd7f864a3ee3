"""The results of the sweep as docs/architectures.json, and the tables of the page beside it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent.parent / "docs"
RESULTS, PAGE = DOCS / "architectures.json", DOCS / "architectures.md"
BEGIN, END = "<!-- sweep -->\n", "<!-- /sweep -->"
ENDS = {"w": "works", "n": "works, some named", "r": "refused", "d": "dies"}
SHOWN = 200  # characters of a kind of refusal
SELDOM = 5  # a kind that came less often is counted with others like it
_CLASSES = r"Model|For[A-Z]\w*|Block|Decoder\w*|Encoder\w*|Layer|Projection|Linear|Backbone|Stage"


def code(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a letter for each setting of one class (``ENDS``); none for a class not built."""
    ends = [(row["end"], bool(row["line"])) for row in rows]
    return "".join({("works", True): "n"}.get(end, end[0][0]) for end in ends if end[0] in _ENDS)


_ENDS = ("works", "refused", "dies")


def kind(row: Mapping[str, Any]) -> str:
    """Return what a refusal says, without the names of classes, modules and numbers."""
    line = row["line"].replace(row["model"], "…")
    line = re.sub(rf"\b(?!LayerNorm|RMSNorm)\w*[A-Z]\w*({_CLASSES})\b", "…", line)
    line = re.sub(r"[\w.]*\w\.\w[\w.]*", "…", line)  # a path of modules
    line = re.sub(r"\((?:there are |[^()]*['…\d=`])[^()]*\)|(?<![A-Za-z])\d+", "…", line)
    return re.sub(r"(…[ ,:]*)+(?=… )", "", line)[:SHOWN]


def condensed(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Return what is kept: a line a class, and how often each kind of refusal came."""
    import transformers

    built = {name: rows for name, rows in sorted(found.items()) if code(rows)}
    refused = Counter(kind(r) for rows in built.values() for r in rows if r["end"] == "refused")
    return {
        "transformers": transformers.__version__,
        "settings": [row["method"] for row in next(iter(built.values()))],
        "classes": {name: f"{rows[0]['task']} {code(rows)}" for name, rows in built.items()},
        "refused": dict(refused.most_common()),
        "not built": sorted(set(found) - set(built)),
    }


def tables(results: Mapping[str, Any]) -> str:
    """Return the results as markdown: by task, by setting, and what was refused."""
    classes = [line.rpartition(" ")[::2] for line in results["classes"].values()]
    tasks = sorted({task for task, _ in classes})
    by_task = [[task, *_counts([c for t, c in classes if t == task])] for task in tasks]
    by_task.append(["**all**", *_counts([codes for _, codes in classes])])
    by_setting = [
        [f"`{setting}`", *_counts([codes[i] for _, codes in classes])[1:]]
        for i, setting in enumerate(results["settings"])
    ]
    kinds = results["refused"].items()
    refused = [[str(count), line] for line, count in kinds if count >= SELDOM]
    rest = [count for _, count in kinds if count < SELDOM]
    refused.append([str(sum(rest)), f"{len(rest)} other lines, each less than {SELDOM} times"])
    return "\n".join(
        [
            _table(["task", "classes", *ENDS.values()], by_task),
            _table(["setting", *ENDS.values()], by_setting),
            _table(["refused", "with the line (… for names)"], refused),
        ]
    )


def _counts(codes: Sequence[str]) -> list[str]:
    letters = Counter("".join(codes))
    return [str(len(codes)), *(str(letters[letter]) for letter in ENDS)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def tables_in(page: str) -> str:
    """Return the tables that stand in the page."""
    return page.partition(BEGIN)[2].partition(END)[0]


def renew(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write the results and the page's tables."""
    results = condensed(found)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + begin + tables(results) + END + after, encoding="utf-8")
