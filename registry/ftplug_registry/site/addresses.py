"""Where the pages of a site are: files of a folder, or what a server answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

_LONGEST = 100  # characters of a file's name
FOLDER = "artifacts"


@dataclass(frozen=True)
class Addresses:
    """The addresses of a site's pages from its root; ``pages`` by the artifacts' names."""

    home: str = "index.html"
    comparisons: str = "comparisons.html"
    bases: str = "bases.html"
    style: str = "site.css"
    script: str = "site.js"
    pages: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_files(cls, names: Iterable[str]) -> Addresses:
        """Return those of a static site: a file an artifact, on any file system."""
        return cls(pages=file_names(names))

    @classmethod
    def of_server(cls, names: Iterable[str]) -> Addresses:
        """Return those of a server, where an artifact's page is at its repository's address."""
        return cls(
            home="",
            comparisons="-/comparisons",
            bases="-/bases",
            style="-/site.css",
            script="-/site.js",
            pages={name: quote(name) for name in names},
        )

    def page(self, name: str) -> str | None:
        """Return the address of an artifact's page, if the site has one."""
        return self.pages.get(name)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return a file for each name: letters, digits, ``.``, ``_`` and ``-``, no two alike.

    ``org/name`` becomes ``artifacts/org--name.html``. Where a name is long, holds anything else, or
    differs from another in its case alone, a digest of it follows.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in sorted(set(names)):
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("/", "--")).strip(".-")[:_LONGEST]
        exact = plain == name.replace("/", "--") and name.count("/") <= 1 and "--" not in name
        if not plain or not exact or plain.casefold() in taken:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:10]
            plain = f"{plain}-{digest}" if plain else digest
        taken.add(plain.casefold())
        found[name] = f"{FOLDER}/{plain}.html"
    return found
