"""The per-run host: configured methods registered in a fresh pluggy plugin manager."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pluggy

from ftplug import discovery
from ftplug.context import RunView, logger
from ftplug.errors import MethodError, PluginError
from ftplug.hookspecs import HOOK_API, PROJECT, HookSpecs
from ftplug.method import Method, spelled, spelled_methods
from ftplug.nearest import nearest

MethodLike = str | Method | Iterable[str | Method]


def resolve(given: Sequence[MethodLike], settings: Mapping[str, Any]) -> list[Method]:
    """Turn names, instances or lists of either into configured methods.

    With one method ``settings`` are its own; with several they read ``{"lora.r": 8}``.
    """
    flat: list[str | Method] = []
    for item in given:
        flat.extend(item if isinstance(item, Iterable) and not isinstance(item, str) else [item])
    if not flat:
        raise MethodError("no method given: name one, e.g. 'lora' (ftplug methods lists them)")
    names = []
    for item in flat:
        if not isinstance(item, str | Method):
            raise MethodError(f"a method is a name or a Method instance, not {item!r}")
        names.append(item if isinstance(item, str) else item.name)
    configured: list[Method] = []
    for item, own in zip(flat, split_settings(flat, names, settings), strict=True):
        if isinstance(item, Method):
            configured.append(item)
        else:
            entries = as_called_now(item, own)
            configured += [discovery.entry(n).load().configure(values) for n, values in entries]
    return configured


def from_texts(names: Sequence[str], texts: Mapping[str, str]) -> list[Method]:
    """Return the named methods, configured by ``{setting: text}`` as typed on a command line."""
    shares = split_settings(names, names, texts)
    entries = [e for name, own in zip(names, shares, strict=True) for e in as_called_now(name, own)]
    return [discovery.entry(name).load().parse(own) for name, own in entries]


def as_called_now(name: str, settings: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return what a user who gives a method settings that moved means, and say so once."""
    discovery.entry(name)  # a name that nobody has is refused with those there are
    now = migrated([(name, settings)])
    if now != [(name, dict(settings))]:
        gone = {k: v for k, v in settings.items() if (k, v) not in now[0][1].items()}
        logger.warning(
            "%s: %s is deprecated, and refused by the next version: write %s",
            *(name, spelled(gone) or "this use", spelled_methods(now)),
        )
    return [(n, discovery.entry(n).load().as_meant(own)) for n, own in now]


def split_settings(
    flat: Sequence[str | Method], names: Sequence[str], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Give each method its own settings; one that belongs to nobody is an error."""
    chosen: list[dict[str, Any]] = [{} for _ in names]
    for key, value in settings.items():
        owner, dot, setting = key.rpartition(".")
        if not dot and len(names) == 1:
            owner, setting = names[0], key
        if owner not in names:
            raise MethodError(_nobodys(key, owner, setting, names))
        index = names.index(owner)
        if isinstance(flat[index], Method):
            raise MethodError(f"{owner} is given as an instance: put {setting!r} into it")
        chosen[index][setting] = value
    return chosen


def _nobodys(key: str, owner: str, setting: str, names: Sequence[str]) -> str:
    """Say whose a setting may be that belongs to no method of a run."""
    have = [n for n in names if setting in (s.name for s in discovery.entry(n).load().describe())]
    near = nearest(owner, names) if owner else have
    return (
        f"setting {key!r} belongs to no method of this run ({', '.join(names)}); "
        f"with several methods write METHOD.SETTING, e.g. {(near or have or names)[0]}.{setting}"
    )


class Host:
    """Calls the hooks of one run's methods, in the order the methods were given.

    ``views`` makes what a hook that takes ``run`` is given, of a method and a model; whoever
    prepares a model sets it.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = list(methods)
        self.views: Callable[[Method, Any], RunView] = _no_run
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        for method in reversed(self.methods):  # pluggy calls the last registered first
            self._register(method)

    def _register(self, method: Method) -> None:
        if not method.name:
            raise PluginError(f"{type(method).__qualname__} {discovery.no_name()}")
        if self._manager.has_plugin(method.name):
            raise MethodError(f"method {method.name!r} is given twice: one run takes it once")
        if method.hook_api != HOOK_API:
            raise PluginError(
                f"method {method.name!r} is written for hook API {method.hook_api}; "
                f"this ftplug has {HOOK_API}: install matching versions of both"
            )
        try:
            self._manager.register(method, name=method.name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            reason = str(error).replace("\n", " ")
            raise PluginError(f"method {method.name!r} has a misspelt hook: {reason}") from error
        for caller in self._manager.get_hookcallers(method) or ():
            if any(impl.wrapper or impl.hookwrapper for impl in caller.get_hookimpls()):
                raise PluginError(
                    f"method {method.name!r}: {caller.name} is a hook wrapper, which would run "
                    "around other methods: implement the hook itself"
                )

    @property
    def names(self) -> str:
        """The methods' names, for messages."""
        return " + ".join(method.name for method in self.methods)

    def implements(self, hook: str) -> bool:
        """Whether any method implements the hook; the loop calls no hook that nobody has."""
        return bool(getattr(self._manager.hook, hook).get_hookimpls())

    def implements_for(self, method: Method, hook: str) -> bool:
        """Whether this one method implements the hook."""
        impls = getattr(self._manager.hook, hook).get_hookimpls()
        return any(impl.plugin is method for impl in impls)

    def call(self, hook: str, **arguments: Any) -> list[Any]:
        """Call the hook on all methods and return the answers that are not None."""
        return [answer for _, answer in self.call_each(hook, **arguments) if answer is not None]

    def call_each(self, hook: str, **arguments: Any) -> list[tuple[Method, Any]]:
        """Call the hook on each method that implements it and pair the answers with the methods."""
        return list(self.calls(hook, **arguments))

    def calls(self, hook: str, **arguments: Any) -> Iterator[tuple[Method, Any]]:
        """Yield each method that implements the hook, once it was called, and its answer.

        In pluggy's order (``trylast`` counts), but one by one: each method has a ``run`` of its
        own.
        """
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            method = impl.plugin
            if "run" in impl.argnames:
                arguments["run"] = self.views(method, arguments["model"])
            yield method, impl.function(*(arguments[name] for name in impl.argnames))

    def spec(self, *, transient: bool | None = None) -> list[dict[str, Any]]:
        """Return name, settings and origin of each method, as reports and manifests record them.

        ``transient`` asks for those alone that train nothing, or those alone that do.
        """
        known = discovery.entries()
        spec = []
        for method in self.methods:
            if transient is not None and method.transient != transient:
                continue
            origin = known.get(method.name) or discovery.offered(known).get(method.name)
            spec.append(
                {
                    "name": method.name,
                    "settings": method.settings(),
                    "distribution": origin[0].distribution if origin else None,
                    "version": origin[0].version if origin else None,
                }
            )
        return spec

    def same_methods(self, spec: Sequence[Mapping[str, Any]]) -> bool:
        """Whether a recorded spec names the same methods with the same settings.

        A setting that a method has got since then was what its default is now. What trains nothing
        may differ.
        """
        recorded = [(entry["name"], entry["settings"]) for entry in spec]
        then = [(name, settings) for name, settings in recorded if not is_transient(name)]
        mine = [method for method in self.methods if not method.transient]
        filled = [
            (name, method.defaults() | settings)
            for method, (name, settings) in zip(mine, then, strict=False)
        ]
        return len(then) == len(mine) and filled == [(m.name, m.settings()) for m in mine]


def migrated(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Return methods with settings as an older version recorded them, as they are called now.

    Each method knows its own (:attr:`ftplug.Method.MIGRATIONS`); one that is not installed stays as
    it is.
    """
    moved: list[tuple[str, dict[str, Any]]] = []
    for name, settings in entries:
        try:
            migrations = discovery.entry(name).load().MIGRATIONS
        except PluginError:
            migrations = ()
        changed = next((new for m in migrations if (new := m(dict(settings))) is not None), None)
        same = changed in (None, [(name, dict(settings))])  # a migration that never ends
        moved += [(name, dict(settings))] if same else migrated(changed or [])
    return moved


def transient(spec: Iterable[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Return those of recorded methods that train nothing, every setting filled in."""
    return [
        (name, discovery.entry(name).load().defaults() | entry["settings"])
        for entry in spec
        if is_transient(name := entry["name"])
    ]


def is_transient(name: str) -> bool:
    """Whether a method trains nothing; one that cannot be loaded is taken to train."""
    try:
        return discovery.entry(name).load().transient
    except PluginError:
        return False


def _no_run(method: Method, model: Any) -> RunView:
    raise MethodError(f"{method.name}: this hook needs a run: apply the method to a model first")
