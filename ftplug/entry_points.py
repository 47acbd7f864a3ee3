"""Entry points of the installed packages: read without imports, imported one by one.

Importing one runs its package's code, with the user's rights. So nothing is imported but what a
command or call uses (docs/trust.md), and whatever a package does
at its import ends in one line that names it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ftplug.errors import PluginError

T = TypeVar("T")


@dataclass(frozen=True)
class Advertised:
    """One entry point: what it leads to, and the distribution that it came with."""

    name: str
    value: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.name!r} ({self.value}, from {self.distribution} {self.version})"

    def imported(self) -> Any:
        """Return the object, importing its module; PluginError for whatever goes wrong there."""
        return self.calling(lambda imported: imported)

    def calling(self, function: Callable[[Any], T]) -> T:
        """Return what a function makes of the object; PluginError for whatever goes wrong."""
        try:
            return function(importlib.metadata.EntryPoint(self.name, self.value, "").load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's module may raise anything, and may exit
            raise PluginError(f"{self} cannot be used: {error!r}") from error


def advertised(group: str) -> list[Advertised]:
    """Return a group's entry points, without importing any of them; sorted by name."""
    return list(_installed(group, _state()))


def the_one(group: str) -> Advertised | None:
    """Return a group's only entry point, None where there is none; PluginError for several."""
    found = advertised(group)
    if len(found) > 1:
        owners = " and ".join(map(str, found))
        raise PluginError(f"{group}: provided by {owners}: uninstall one of them")
    return found[0] if found else None


@functools.lru_cache(maxsize=8)
def _installed(group: str, state: object) -> tuple[Advertised, ...]:
    """Read the metadata of all distributions, again when one came or went: it takes 10 ms."""
    origin = functools.cache(_origin)  # each look parses all of the distribution's metadata
    found = (
        Advertised(point.name, point.value, *origin(point.dist))
        for point in importlib.metadata.entry_points(group=group)
    )
    return tuple(sorted(found, key=lambda point: point.name))


def _state() -> tuple[tuple[str, int | None], ...]:
    return tuple((path, _changed(path)) for path in sys.path)


def _changed(path: str) -> int | None:
    """Return when a folder's content changed last; None where there is none."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return None


def _origin(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    return (distribution.name, distribution.version) if distribution else ("unknown", "?")
