"""Real servers with sound and with broken adapters, and what ``ftplug verify --served`` says.

``make served`` sets up ``.venv/served`` and runs it: SmolLM2-135M learns a few sentences with LoRA;
then vLLM on the CPU serves the adapter, copies of it that do not fit, and another base;
``transformers serve`` and llama.cpp serve the merged model. Writes docs/serving.json and the table
of docs/serving.md. 10 minutes on two cores, 4 GB of memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from artifacts import make_all
from ftplug_registry.verifying.served import Served
from ftplug_registry.verifying.served import served as asked
from processes import LLAMA_CPP, TRANSFORMERS, VLLM, running

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "serving.json"
PAGE = ROOT / "docs" / "serving.md"
BEGIN, END = "<!-- the table -->", "<!-- end of the table -->"
PATIENCE = 600.0  # seconds of an answer: the cores may be shared


@dataclass(frozen=True)
class Row:
    """What one server was given, and what was found."""

    server: str
    given: str
    expected: str
    verdict: str
    by: str
    figures: str


def main() -> int:
    """Print what each server was found to serve; 1 where that is not what it was given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / ".standings" / "serving")
    parser.add_argument("--only", choices=tuple(PARTS), action="append")
    options = parser.parse_args()
    folder = options.work.resolve()
    make_all(folder)
    rows = []
    for part in options.only or PARTS:
        for row in PARTS[part](folder):
            print(f"{row.server}: {row.given}: {row.verdict} ({row.by}: {row.figures})", flush=True)
            rows.append(row)
            if not options.only:
                _keep({"measured": _where(folder), "rows": [asdict(row) for row in rows]})
    return int(any(row.verdict != row.expected for row in rows))


def _keep(found: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    PAGE.write_text(rendered(PAGE.read_text("utf-8"), found), encoding="utf-8")


def _vllm(folder: Path) -> Iterator[Row]:
    names = {
        "tuned": ("the adapter", "trained"),
        "renamed": ("the adapter, its layers renamed: vLLM loads it, without effect", "base"),
        "half": ("the adapter, every second layer dropped", "neither"),
        "rescaled": ("the adapter, lora_alpha halved", "neither"),
        "base": ("no adapter: the request names the base", "base"),
    }
    adapters = {name: folder / name for name in names if name != "base"}
    with running(VLLM, folder / "base", adapters) as url:
        for name, (given, expected) in names.items():
            yield _row("vLLM", given, expected, asked(_tuned(folder), url, name, patience=PATIENCE))


def _vllm_on_another_base(folder: Path) -> Iterator[Row]:
    with running(VLLM, folder / "other-base", {"tuned": folder / "tuned"}) as url:
        found = asked(_tuned(folder), url, "tuned", patience=PATIENCE)
        yield _row("vLLM", "the adapter on another base", "neither", found)


def _transformers(folder: Path) -> Iterator[Row]:
    for name, given, expected in (
        ("merged", "the merged model", "trained"),
        ("base", "the base", "base"),
    ):
        with running(TRANSFORMERS, folder / name, {}) as url:
            found = asked(_tuned(folder), url, str(folder / name), patience=PATIENCE)
            yield _row("transformers serve", given, expected, found)


def _llama_cpp(folder: Path) -> Iterator[Row]:
    for name, given, expected in (
        ("merged", "the merged model as GGUF in float32", "trained"),
        ("base", "the base as GGUF in float32", "base"),
    ):
        if not (folder / f"{name}.gguf").is_file():
            print(f"llama.cpp: no {name}.gguf: its converter or library is not installed")
            return
        with running(LLAMA_CPP, folder / f"{name}.gguf", {}) as url:
            found = asked(_tuned(folder), url, name, patience=PATIENCE)
            yield _row("llama-cpp-python", given, expected, found)


PARTS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "vllm": _vllm,
    "vllm-other-base": _vllm_on_another_base,
    "transformers": _transformers,
    "llama-cpp": _llama_cpp,
}


def _tuned(folder: Path) -> Path:
    return folder / "tuned"


def _row(server: str, given: str, expected: str, found: Served) -> Row:
    return Row(server, given, expected, found.verdict, found.by, found.figures)


def _where(folder: Path) -> dict[str, Any]:
    served = json.loads((folder / "versions.json").read_text("utf-8"))
    return {"day": str(datetime.date.today()), "ftplug": version("ftplug"), **served}


def rendered(page: str, found: dict[str, Any]) -> str:
    """Return the page with the table of what was found."""
    head, _, rest = page.partition(BEGIN)
    lines = ["| server | was given | verdict | figures |", "| --- | --- | --- | --- |"]
    for row in found["rows"]:
        figures = f"{row['by']}: {row['figures']}"
        lines.append(f"| {row['server']} | {row['given']} | **{row['verdict']}** | {figures} |")
    told = ", ".join(f"{name} {value}" for name, value in found["measured"].items())
    table = "\n".join([BEGIN, *lines, "", f"Measured: {told}.", END])
    return head + table + rest.partition(END)[2]


if __name__ == "__main__":
    sys.exit(main())
