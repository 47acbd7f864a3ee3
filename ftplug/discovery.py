"""Finding methods: the entry-point group ``ftplug.methods`` maps a name to its class.

The group ``ftplug.method_families`` names modules that know further names (:class:`Family`).
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, get_args

from ftplug.entry_points import Advertised, advertised
from ftplug.errors import PluginError
from ftplug.hookspecs import HOOK_API
from ftplug.nearest import either, nearest

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


class Entry(Advertised):
    """One advertised method: where it comes from, and how to load it."""

    def load(self) -> type[Method]:
        """Import the class; whatever goes wrong is a PluginError naming the distribution."""
        from ftplug.method import Method

        where = f"method {self}"
        cls = self._found()
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
        _check_description(cls, where)
        return cls

    def _found(self) -> Any:
        return self.imported()


class Offered(Entry):
    """A method that a family builds; ``value`` is the family's module."""

    def _found(self) -> Any:
        return self.calling(lambda family: family.build(self.name))


def _check_description(cls: type[Method], where: str) -> None:
    """Refuse a class that no list can show; PluginError says what it lacks."""
    from ftplug.method import Kind

    if cls.kind not in get_args(Kind):
        known = ", ".join(get_args(Kind))
        raise PluginError(f"{where} is of a kind {cls.kind!r} that there is not: one of {known}")
    try:
        cls.summary()
        cls.describe()
    except (
        Exception
    ) as error:  # names that only type checkers import, and what a stranger overrides
        raise PluginError(f"{where} cannot be described: {error!r}") from error


def no_name(suggested: str = "my-method") -> str:
    """Return what to do about a class that has no name, for messages that begin with the class."""
    return f'has no name: add the line name: ClassVar[str] = "{suggested}" to the class'


def entries() -> dict[str, list[Entry]]:
    """Return the advertised methods by name, without importing any of them."""
    by_name: dict[str, list[Entry]] = defaultdict(list)
    for point in advertised(GROUP):
        by_name[point.name].append(Entry(**vars(point)))
    return dict(by_name)


def entry(name: str) -> Entry:
    """Return the one entry for a method name, or raise a PluginError."""
    known = entries()
    if name not in known:
        known |= offered(known)
    return _only(name, known)


def is_listed(name: str) -> bool:
    """Whether an installed package lists a method of this name; nothing is imported."""
    return name in entries()


def is_offered(name: str) -> bool:
    """Whether an installed package lists a method of this name, or a family knows it."""
    return is_listed(name) or name in offered(entries())


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
    for point in advertised(FAMILIES):
        try:
            title, names = point.calling(lambda family: (family.title(), sorted(family.names())))
        except PluginError as error:
            warnings.warn(f"ftplug: the family {error}", stacklevel=2)
            continue
        yield title, [Offered(**vars(point) | {"name": name}) for name in names]


def _only(name: str, known: Mapping[str, list[Entry]]) -> Entry:
    if name not in known:
        raise PluginError(f"no method named {name!r}{_meant(name, known)}")
    if len(known[name]) > 1:
        owners = " and ".join(f"{e.distribution} {e.version}" for e in known[name])
        raise PluginError(f"method {name!r} is provided by {owners}: uninstall one of them")
    return known[name][0]


def _meant(name: str, known: Mapping[str, object]) -> str:
    """Return what to say to a name that no method has."""
    parts = re.split(r"\s*[+,]\s*", name.strip())
    if len(parts) > 1 and all(part in known for part in parts):
        several = ", ".join(map(repr, parts))
        options = " ".join(f"--method {part}" for part in parts)
        return f": several methods are given one by one, {several} (or {options})"
    near = nearest(name, known)
    hint = f"; did you mean {either(near)}?" if near else ":"
    return f"{hint} ftplug methods lists the {len(known)} there are"


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
