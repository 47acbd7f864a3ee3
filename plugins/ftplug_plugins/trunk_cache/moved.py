"""Settings of three methods that became a method of their own: ``cache`` is ``trunk-cache`` now."""

from __future__ import annotations

from typing import Any

from ftplug import MethodError
from ftplug.method import Migration

_RENAMED = {"cache_dtype": "dtype", "cache_bytes": "bytes", "cache_on_disk": "on_disk"}
_WORDS = {"true": True, "1": True, "yes": True, "on": True}
_WORDS |= {"false": False, "0": False, "no": False, "off": False}


def cache_moved(method: str) -> Migration:
    """Return what ``cache`` of a method means, and ``cache_dtype``, ``_bytes`` and ``_on_disk``.

    Without ``cache`` the other three did nothing.
    """

    def moved(settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]] | None:
        if not settings.keys() & {"cache", *_RENAMED}:
            return None
        cache = settings.pop("cache", False)
        own = {new: settings.pop(old) for old, new in _RENAMED.items() if old in settings}
        given = _WORDS.get(cache.lower()) if isinstance(cache, str) else cache
        if not isinstance(given, bool):
            raise MethodError(f"{method}: setting 'cache' cannot be {cache!r}: it is true or false")
        return [(method, settings), *([("trunk-cache", own)] if given else [])]

    return moved
