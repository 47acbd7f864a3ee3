"""What a comparison was asked for: what is the same in all of its cells."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftplug.errors import FtplugError, one_line
from ftplug.files.staged import replace_file

FILE = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """A comparison as it was asked for; ``DIR/comparison.json``.

    ``candidates`` are texts as given (``lora+bitfit lora.r=4``), with the baseline among them.
    ``rates`` are learning rates, "suggested" for each candidate's own, or None for three of each:
    low, suggested and high. ``metric`` None takes the script's; ``greater_is_better`` says whether
    more of it is better, None leaves that to the script and the metric's name. ``key`` is random,
    64 hexadecimal digits: it keys the hashes of examples. ``folder`` is the working directory of
    the script.
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
    greater_is_better: bool | None = None
    delta: float = 0.01
    budget_minutes: float | None = None
    dataset_name: str | None = None
    retain: str | None = None
    seed_arg: str | None = None

    def check_texts(self) -> None:
        """Raise :class:`FtplugError` for a text that could not be written, naming it."""
        given = (self.baseline, self.metric, self.dataset_name, self.retain, self.seed_arg)
        for text in (*self.command, self.folder, *self.candidates, *given):
            if text is not None and not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError:
                    raise FtplugError(
                        f"compare: {text!r} is not UTF-8, as comparison.json is: rename that file "
                        "or folder, or write the argument in UTF-8"
                    ) from None

    def write(self, directory: Path) -> None:
        """Write the file of a comparison's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        replace_file(directory / FILE, text.encode("utf-8"))

    @classmethod
    def read(cls, directory: Path) -> Comparison:
        """Read it back; FtplugError where there is none."""
        import pydantic

        path = directory / FILE
        try:
            return pydantic.TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            said = one_line(error)
            raise FtplugError(
                f"{path}: no comparison of ftplug compare: {said}: put the file back, or compare "
                "anew in another folder"
            ) from None
