"""Finding methods: the entry-point group ``ftplug.methods`` maps a name to its class.

The group ``ftplug.method_families`` names modules that know further names (:class:`Family`).
"""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import itertools
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from ftplug.errors import PluginError
from ftplug.hookspecs import HOOK_API

if TYPE_CHECKING:
    from ftplug.method import Method

GROUP = "ftplug.methods"
FAMILIES = "ftplug.method_families"


class Family(Protocol):
    """What offers methods whose names no package can list: those of another library.

    An entry point of ``ftplug.method_families`` names a module with these functions. It is asked
    for names that no entry point of ``ftplug.methods`` has.
    """

    def title(self) -> str:
        """Return what has the methods, such as ``peft 0.22.0``."""

    def names(self) -> Iterable[str]:
        """Return the names beyond the entry points; asked by every list, so without imports."""

    def build(self, name: str) -> type[Method]:
        """Return the class of one of the names; this may import the library."""


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
            cls = self._found()
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

    def _found(self) -> Any:
        return importlib.metadata.EntryPoint(self.name, self.value, GROUP).load()


@dataclass(frozen=True)
class Offered(Entry):
    """A method that a family builds; ``value`` is the family's module."""

    def _found(self) -> Any:
        return _family(self).build(self.name)


def no_name(suggested: str = "my-method") -> str:
    """Return what to do about a class that has no name, for messages that begin with the class."""
    return f'has no name: add the line  name: ClassVar[str] = "{suggested}"  to the class'


def entries() -> dict[str, list[Entry]]:
    """Return the advertised methods by name, without importing any of them."""
    return {name: list(advertised) for name, advertised in _installed(_state()).items()}


def _state() -> tuple[tuple[str, int | None], ...]:
    return tuple((path, _changed(path)) for path in sys.path)


@functools.lru_cache(maxsize=2)
def _installed(state: object, group: str = GROUP) -> dict[str, list[Entry]]:
    """Read the entry points of all distributions, again when one came or went: it takes 10 ms."""
    by_name: dict[str, list[Entry]] = defaultdict(list)
    origin = functools.cache(_origin)  # each look parses all of the distribution's metadata
    for point in importlib.metadata.entry_points(group=group):
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
    """Return the one entry for a method name, or raise a PluginError."""
    known = entries()
    if name not in known:
        known |= offered(known)
    return _only(name, known)


def offered(known: Mapping[str, object]) -> dict[str, list[Entry]]:
    """Return what families offer beyond the ``known`` names; a broken family is a warning."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for _, names in _families():
        for one in names:
            if one.name not in known:
                found[one.name].append(one)
    return dict(sorted(found.items()))


def further(known: Mapping[str, object]) -> dict[str, list[str]]:
    """Return ``{title: names}`` of the families that offer more than the ``known`` names."""
    found = {title: [e.name for e in names if e.name not in known] for title, names in _families()}
    return {title: names for title, names in found.items() if names}


def _families() -> Iterator[tuple[str, list[Entry]]]:
    """Yield the title and the entries of each family."""
    for point in itertools.chain.from_iterable(_installed(_state(), FAMILIES).values()):
        try:
            family = _family(point)
            title, names = family.title(), sorted(family.names())
        except Exception as error:  # a stranger's module may raise anything
            warnings.warn(
                f"ftplug: the family {point.name!r} ({point.value}, from {point.distribution} "
                f"{point.version}) cannot be asked: {error!r}",
                stacklevel=2,
            )
            continue
        origin = (point.value, point.distribution, point.version)
        yield title, [Offered(name, *origin) for name in names]


def _family(point: Entry) -> Family:
    loaded = importlib.metadata.EntryPoint(point.name, point.value, FAMILIES).load()
    return cast("Family", loaded)


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
