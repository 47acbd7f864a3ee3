"""The model zoo: cards, push, pull, search, show and verify; names are resolved when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.lazy import lazy_names

if TYPE_CHECKING:
    from ftplug_registry.governing.deprecating import deprecate, undeprecate
    from ftplug_registry.governing.differing import diff
    from ftplug_registry.governing.history import history
    from ftplug_registry.governing.promoting import promote
    from ftplug_registry.governing.usage import usage
    from ftplug_registry.governing.withdrawing import unwithdraw, withdraw
    from ftplug_registry.hub import Hub
    from ftplug_registry.local_hub import round_trip
    from ftplug_registry.pulling.fetching import pull
    from ftplug_registry.pulling.plain_peft import is_plain, load_plain
    from ftplug_registry.pushing.publishing import Published, push
    from ftplug_registry.searching import Found, search
    from ftplug_registry.showing import show
    from ftplug_registry.signing.requiring import require_signature
    from ftplug_registry.verifying.verification import verify

_HOME = {
    "Hub": "hub",
    "deprecate": "governing.deprecating",
    "diff": "governing.differing",
    "history": "governing.history",
    "is_plain": "pulling.plain_peft",
    "load_plain": "pulling.plain_peft",
    "round_trip": "local_hub",
    "promote": "governing.promoting",
    "pull": "pulling.fetching",
    "Published": "pushing.publishing",
    "push": "pushing.publishing",
    "Found": "searching",
    "search": "searching",
    "require_signature": "signing.requiring",
    "show": "showing",
    "undeprecate": "governing.deprecating",
    "unwithdraw": "governing.withdrawing",
    "usage": "governing.usage",
    "verify": "verifying.verification",
    "withdraw": "governing.withdrawing",
}

__all__ = [
    "Found",
    "Hub",
    "Published",
    "deprecate",
    "diff",
    "history",
    "is_plain",
    "load_plain",
    "promote",
    "pull",
    "push",
    "require_signature",
    "round_trip",
    "search",
    "show",
    "undeprecate",
    "unwithdraw",
    "usage",
    "verify",
    "withdraw",
]


__getattr__, __dir__ = lazy_names(__name__, _HOME)
