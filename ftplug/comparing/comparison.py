"""What a comparison was asked for: what is the same in all of its cells."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftplug.errors import FtplugError
from ftplug.files.staged import replace_file

FILE = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """A comparison as it was asked for; ``DIR/comparison.json``.

    ``candidates`` are texts as given (``lora+bitfit lora.r=4``), with the baseline among them.
    ``rates`` are learning rates, "suggested" for each candidate's own, or None for three of each:
    low, suggested and high. ``metric`` None takes the script's. ``key`` is random, 64 hexadecimal
    digits: it keys the hashes of examples. ``folder`` is the working directory of the script.
    """

    command: tuple[str, ...]
    module: bool
    folder: str
    candidates: tuple[str, ...]
    baseline: str
    key: str
    rates: tuple[float, ...] | Literal["suggested"] | None = None
    seeds: int = 3
    metric: str | None = None
    delta: float = 0.01
    budget_minutes: float | None = None
    dataset_name: str | None = None
    retain: str | None = None
    seed_arg: str | None = None

    def write(self, directory: Path) -> None:
        """Write the file of a comparison's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        replace_file(directory / FILE, text.encode("utf-8"))

    @classmethod
    def read(cls, directory: Path) -> Comparison:
        """Read it back; FtplugError where there is none."""
        path = directory / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            for name in ("command", "candidates", "rates"):
                found[name] = tuple(found[name]) if isinstance(found[name], list) else found[name]
            return cls(**found)
        except (OSError, TypeError, ValueError, KeyError) as error:
            raise FtplugError(f"{path}: no comparison of ftplug compare: {error}") from None
