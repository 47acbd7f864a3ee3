"""Texts of a report: strings of anybody's scripts made harmless, numbers as people read them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.errors import one_line
from ftplug.files.credentials import masked

if TYPE_CHECKING:
    from ftplug.comparing.summary import Judged

LONGEST = 300  # characters of a reason or a note
NAME = 80  # characters of a candidate
UNKNOWN = "–"  # noqa: RUF001 - what stands where nothing was measured
MINUS = "−"  # noqa: RUF001

WORDS = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "not_decided": "not decided",
    "baseline": "baseline",
    "failed": "failed",
    "finished": "finished",
    "pruned": "pruned",
    "diverged": "diverged",
    "out_of_memory": "out of memory",
}


def clean(text: object, longest: int = LONGEST) -> str:
    """Return a stranger's text on one line: nothing that steers a terminal, no secret, not long."""
    line = "".join(c if c.isprintable() else "�" for c in one_line(masked(str(text))))
    if len(line) <= longest:
        return line
    half = (longest - 3) // 2
    return f"{line[:half]} … {line[-half:]}"


@dataclass(frozen=True)
class Places:
    """Folders that a text may name, and what stands for them: ``(("/home/me", "~"),)``."""

    short: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, *folders: Path | str) -> Places:
        """Leave these folders out of paths, the longest first, and write ``~`` for the home."""
        given = [(os.path.abspath(folder), "") for folder in folders if str(folder)]
        home = (os.path.abspath(Path.home()), "~")
        found = dict([home, *given])  # a folder that is the home itself is left out
        pairs = [(path, short) for path, short in found.items() if len(path) > 1]
        return cls(tuple(sorted(pairs, key=lambda pair: -len(pair[0]))))

    def shortened(self, text: object) -> str:
        """Return a text whose paths begin with what stands for these folders."""
        line = str(text)
        for path, short in self.short:
            inside = f"{short}/" if short else ""
            start = rf"(?<![\w./-]){re.escape(path)}"
            line = re.sub(rf"{start}/+(?=[^\s/])", inside, line)
            line = re.sub(rf"{start}/?(?![\w.-])", short or ".", line)
        return line

    def clean(self, text: object, longest: int = LONGEST) -> str:
        """Return a stranger's text with its paths shortened, and harmless."""
        return clean(self.shortened(text), longest)


def number(value: float | None) -> str:
    """Return a metric: four decimals, of large ones four digits, of tiny ones three."""
    if value is None or not _can_be_written(value):
        return UNKNOWN
    size = abs(value)
    if 0 < size < 0.0001:
        text = f"{value:.2e}"
    elif size < 10:
        text = f"{value:.4f}"
    else:
        text = f"{value:,.2f}" if size < 1000 else f"{value:,.0f}"
    return text.replace("-", MINUS)


def signed(value: float | None) -> str:
    """Return a difference, with its sign."""
    text = number(value)
    return f"+{text}" if value is not None and value > 0 and text != UNKNOWN else text


def interval(ends: Sequence[float] | None) -> str:
    """Return an interval: ``+0.0012 to +0.0230``."""
    return UNKNOWN if ends is None else f"{signed(ends[0])} to {signed(ends[1])}"


def p_value(p: float | None) -> str:
    """Return a p-value: below 0.001 nobody needs the digits."""
    if p is None or not _can_be_written(p):
        return UNKNOWN
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rate(lr: float | None) -> str:
    """Return a learning rate as one types it: ``3e-4``."""
    if lr is None:
        return "script's"
    return re.sub(r"e([+-])0*(\d)", r"e\1\2", f"{lr:.3g}" if lr >= 0.01 else _scientific(lr))


def rate_of(judged: Judged) -> str:
    """Return the learning rate that a candidate is judged at, if any cell of it has run."""
    ran = judged.seeds or judged.lr is not None or judged.verdict == "failed"
    return rate(judged.lr) if ran else UNKNOWN


def _scientific(lr: float) -> str:
    digits, power = f"{lr:.2e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def seconds(value: float | None) -> str:
    """Return a time: ``12.3 s``, ``4 min 5 s``, ``2 h 3 min``."""
    if value is None or not _can_be_written(value):
        return UNKNOWN
    if value < 120:
        return f"{value:.3g} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def size(value: float | None) -> str:
    """Return bytes: ``512 B``, ``12.3 KiB``, ``1.4 GiB``."""
    if value is None or not _can_be_written(value):
        return UNKNOWN
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _can_be_written(value: float) -> bool:
    """Whether a number is neither NaN nor beyond what a float holds, as whole ones of JSON are."""
    return abs(value) <= sys.float_info.max


def count(value: float | None) -> str:
    """Return a whole number with its thousands set apart."""
    return UNKNOWN if value is None else f"{value:,.0f}"
