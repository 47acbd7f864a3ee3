"""Finding methods: the entry-point group ``ftplug.methods`` maps a name to its class."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.errors import PluginError
from ftplug.hookspecs import HOOK_API

if TYPE_CHECKING:
    from ftplug.method import Method

GROUP = "ftplug.methods"


@dataclass(frozen=True)
class Entry:
    """One advertised method: where it comes from, and how to load it."""

    name: str
    value: str
    distribution: str
    version: str

    def load(self) -> type[Method]:
        """Import the class; whatever goes wrong is a PluginError naming the distribution."""
        from ftplug.method import Method

        where = f"method {self.name!r} ({self.value}, from {self.distribution} {self.version})"
        try:
            point = importlib.metadata.EntryPoint(self.name, self.value, GROUP)
            cls = point.load()
        except Exception as error:  # a stranger's module may raise anything on import
            raise PluginError(f"{where} cannot be loaded: {error!r}") from error
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise PluginError(f"{where} is not a subclass of ftplug.Method")
        if "__dataclass_fields__" not in cls.__dict__:
            raise PluginError(f"{where} lacks @dataclass(frozen=True, eq=False): no setting works")
        if cls.hook_api != HOOK_API:
            raise PluginError(
                f"{where} is written for hook API {cls.hook_api}; this ftplug has {HOOK_API}: "
                "install matching versions of both"
            )
        if not cls.name:
            raise PluginError(f"{where} {no_name(self.name)}")
        if cls.name != self.name:
            raise PluginError(
                f"{where} calls itself {cls.name!r}; entry point and class must agree"
            )
        return cls


def no_name(suggested: str = "my-method") -> str:
    """Return what to do about a class that has no name, for messages that begin with the class."""
    return f'has no name: add the line  name: ClassVar[str] = "{suggested}"  to the class'


def entries() -> dict[str, list[Entry]]:
    """Return the advertised methods by name, without importing any of them."""
    known = _installed(tuple((path, _changed(path)) for path in sys.path))
    return {name: list(advertised) for name, advertised in known.items()}


@functools.lru_cache(maxsize=1)
def _installed(state: tuple[tuple[str, int | None], ...]) -> dict[str, list[Entry]]:
    """Read the entry points of all distributions, again when one came or went: it takes 10 ms."""
    by_name: dict[str, list[Entry]] = defaultdict(list)
    origin = functools.cache(_origin)  # each look parses all of the distribution's metadata
    for point in importlib.metadata.entry_points(group=GROUP):
        entry = Entry(point.name, point.value, *origin(point.dist))
        if entry not in by_name[point.name]:  # an editable install may be listed twice
            by_name[point.name].append(entry)
    return dict(sorted(by_name.items()))


def _changed(path: str) -> int | None:
    """Return when a folder's content changed last; None where there is none."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return None


def _origin(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    return (distribution.name, distribution.version) if distribution else ("unknown", "?")


def entry(name: str) -> Entry:
    """Return the one distribution's entry for a method name, or raise a PluginError."""
    return _only(name, entries())


def _only(name: str, known: Mapping[str, list[Entry]]) -> Entry:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise PluginError(f"no method named {name!r}{hint} Installed: {', '.join(known)}")
    if len(known[name]) > 1:
        owners = " and ".join(f"{e.distribution} {e.version}" for e in known[name])
        raise PluginError(f"method {name!r} is provided by {owners}: uninstall one of them")
    return known[name][0]


def methods() -> dict[str, type[Method]]:
    """Return every usable method by name; a broken one is named in a warning and left out."""
    usable: dict[str, type[Method]] = {}
    known = entries()
    for name in known:
        try:
            usable[name] = _only(name, known).load()
        except PluginError as error:
            warnings.warn(f"ftplug: {error}", stacklevel=2)
    return usable
