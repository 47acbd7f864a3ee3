"""README, CONTRIBUTING and docs/: their commands, Python blocks, headings and links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

SET_UP = ("make demo", "make test")
INSTALL = ("pip install .", 'pip install "ftplug @ git+https://GIT-HOST/ftplug.git"')


@dataclass(frozen=True)
class Page:
    """A markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """What stands outside of code blocks."""
        return _BLOCK.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        return [body for name, body in _BLOCK.findall(self.text) if name == language]

    @property
    def languages(self) -> set[str]:
        return {name for name, _ in _BLOCK.findall(self.text)}

    @property
    def commands(self) -> list[str]:
        """The commands in order, without the comments behind them."""
        consoles = "".join(self.blocks("console"))
        return re.findall(r"^\$ (.+?)(?:\s+#.*)?$", consoles, re.MULTILINE)

    @property
    def sections(self) -> list[str]:
        """The text below each ``##`` heading, code blocks included."""
        return re.split(r"^## ", self.text, flags=re.MULTILINE)[1:]

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind ``#``, as GitHub makes it of the headings."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}

    @property
    def links(self) -> list[str]:
        """The links that lead into the repository."""
        found = re.findall(r"\]\(([^)]+)\)", self.prose)
        return [link for link in found if not link.startswith("http")]


README = Page(ROOT / "README.md")
DOCS = [Page(path) for path in sorted((ROOT / "docs").glob("*.md"))]
PAGES = [README, Page(ROOT / "CONTRIBUTING.md"), *DOCS]
