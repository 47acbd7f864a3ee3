"""The model zoo: cards, push, pull, search, show and verify; names are resolved when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.lazy import lazy_names

if TYPE_CHECKING:
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
    "is_plain": "pulling.plain_peft",
    "load_plain": "pulling.plain_peft",
    "round_trip": "local_hub",
    "pull": "pulling.fetching",
    "Published": "pushing.publishing",
    "push": "pushing.publishing",
    "Found": "searching",
    "search": "searching",
    "require_signature": "signing.requiring",
    "show": "showing",
    "verify": "verifying.verification",
}

__all__ = [
    "Found",
    "Hub",
    "Published",
    "is_plain",
    "load_plain",
    "pull",
    "push",
    "require_signature",
    "round_trip",
    "search",
    "show",
    "verify",
]


__getattr__, __dir__ = lazy_names(__name__, _HOME)
