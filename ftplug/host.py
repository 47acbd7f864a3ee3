"""The per-run host: configured methods registered in a fresh pluggy plugin manager."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pluggy

from ftplug import discovery
from ftplug.errors import MethodError, PluginError
from ftplug.hookspecs import HOOK_API, PROJECT, HookSpecs
from ftplug.method import Method

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
    return [
        item if isinstance(item, Method) else discovery.entry(item).load().configure(chosen)
        for item, chosen in zip(flat, split_settings(flat, names, settings), strict=True)
    ]


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
            raise MethodError(
                f"setting {key!r} belongs to no method of this run ({', '.join(names)}); "
                f"with several methods write METHOD.SETTING, e.g. {names[0]}.{setting}"
            )
        index = names.index(owner)
        if isinstance(flat[index], Method):
            raise MethodError(f"{owner} is given as an instance: put {setting!r} into it")
        chosen[index][setting] = value
    return chosen


class Host:
    """Calls the hooks of one run's methods, in the order the methods were given."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self.methods = list(methods)
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        for method in reversed(self.methods):  # pluggy calls the last registered first
            self._register(method)

    def _register(self, method: Method) -> None:
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
        answers: list[Any] = getattr(self._manager.hook, hook)(**arguments)
        return answers

    def call_each(self, hook: str, **arguments: Any) -> list[tuple[Method, Any]]:
        """Call the hook on each method that implements it and pair the answers with the methods."""
        answers = []
        for method in self.methods:
            others = [other for other in self.methods if other is not method]
            caller = self._manager.subset_hook_caller(hook, others)
            if caller.get_hookimpls():
                answers.append((method, next(iter(caller(**arguments)), None)))
        return answers

    def spec(self) -> list[dict[str, Any]]:
        """Return name, settings and origin of each method, as checkpoints and manifests do."""
        known = discovery.entries()
        spec = []
        for method in self.methods:
            origin = known.get(method.name)
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

        A setting that a method has got since then was what its default is now.
        """
        mine = [(m.name, m.settings()) for m in self.methods]
        recorded = [
            (then["name"], now.defaults() | then["settings"])
            for now, then in zip(self.methods, spec, strict=False)
        ]
        return len(spec) == len(mine) and mine == recorded
