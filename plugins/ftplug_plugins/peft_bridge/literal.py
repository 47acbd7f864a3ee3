"""What the patterns in peft's settings mean in a model, as the names of its modules.

An artifact holds them beside the patterns, so that whoever loads it runs no regular expression of a
stranger; peft's own file holds them in the patterns' place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from ftplug.structure import pretrained
from ftplug_plugins.peft_bridge.names import SPECIAL, Names, listed, targeted
from ftplug_plugins.peft_bridge.targets import known_targets

if TYPE_CHECKING:
    from torch import nn

RESOLVED = frozenset(
    {
        *("target_modules", "exclude_modules", "feedforward_modules"),
        *("layers_to_transform", "layers_pattern"),
        *("rank_pattern", "alpha_pattern", "lambda_pattern"),
        *("n_frequency_pattern", "block_size_pattern"),
    }
)
"""The settings that names can take the place of."""
_SAID_BY_TARGETS = ("exclude_modules", "layers_to_transform", "layers_pattern")


def has_patterns(settings: Mapping[str, Any]) -> bool:
    """Whether settings hold what peft would match as a regular expression."""
    if settings.get("layers_pattern"):
        return True
    texts = [text for name in RESOLVED for text in _texts(settings.get(name))]
    return any(SPECIAL.search(text) for text in texts)


def literal_names(config: Any, model: nn.Module) -> Mapping[str, Any]:
    """Return what a config's patterns mean, before peft changes the model.

    ``target_modules`` and ``feedforward_modules`` as names, and of each ``…_pattern`` the key that
    holds for a name, the longest names first. Empty where names cannot say it: peft takes a name
    for the end of others, too.
    """
    asked = config
    if config.target_modules is None:
        own = known_targets(config).get(pretrained(model).config.model_type)
        asked = _with(config, target_modules=own)
    targets = targeted(asked, Names("", model)) if asked.target_modules else []
    if not targets or targeted(_with(asked, **_plain(asked, targets)), Names("", model)) != targets:
        return {}
    parameters = [name for name, _ in model.named_parameters()]
    own = [p for p in parameters if p.endswith(tuple(listed(_of(config, "target_parameters"))))]
    found: dict[str, Any] = {"target_modules": targets}
    if (inner := _of(config, "feedforward_modules")) is not None:
        found["feedforward_modules"] = [name for name in targets if _is_inner(inner, name)]
    longest = sorted([*targets, *own], key=len, reverse=True)
    for setting, given in vars(config).items():
        if not setting.endswith("_pattern") or not isinstance(given, Mapping) or not given:
            continue
        if setting not in RESOLVED:
            return {}
        matches = _MATCHES.get(config.peft_type.value, _ends_in)
        keys = {n: next((k for k in given if matches(k, n)), None) for n in longest}
        found[setting] = {name: key for name, key in keys.items() if key is not None}
    return found


def settings_of(
    literal: Mapping[str, Any], settings: Mapping[str, Any], plain: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return settings with names in place of patterns; ``plain`` are the defaults."""
    if not literal:
        return {}
    cleared = {
        n: plain[n] for n in _SAID_BY_TARGETS if settings.get(n, plain.get(n)) != plain.get(n)
    }
    return cleared | {name: _values(given, settings[name]) for name, given in literal.items()}


def put_into(config: Any, literal: Mapping[str, Any]) -> None:
    """Put names in the place of a config's patterns."""
    keys = [(n, key) for n, g in literal.items() if isinstance(g, Mapping) for key in g.values()]
    if not literal or any(key not in (_of(config, name) or ()) for name, key in keys):
        return  # peft has put other keys there
    for name in _SAID_BY_TARGETS:
        if _of(config, name) is not None:
            setattr(config, name, None)
    for name, given in literal.items():
        setattr(config, name, _values(given, getattr(config, name)))


def _values(given: Any, by_pattern: Any) -> Any:
    if isinstance(given, Mapping):
        return {name: by_pattern[key] for name, key in given.items()}
    return given


def _plain(config: Any, targets: list[str]) -> dict[str, Any]:
    said = {n: None for n in _SAID_BY_TARGETS if hasattr(config, n)}
    return said | {"target_modules": targets}


def _with(config: Any, **changed: Any) -> Any:
    other = copy(config)
    for name, value in changed.items():
        setattr(other, name, value)
    return other


def _of(config: Any, name: str) -> Any:
    return getattr(config, name, None)


def _texts(value: Any) -> Iterable[str]:
    several = value if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    return [text for text in several if isinstance(text, str)]


def _is_inner(asked: Any, name: str) -> bool:
    """IA3: whether a target's input is scaled, as peft decides it."""
    if isinstance(asked, str):
        return re.fullmatch(asked, name) is not None
    return any(name.endswith(end) for end in asked)


def _ends_in(key: str, name: str) -> bool:
    return re.match(rf"(.*\.)?({key})$", name) is not None


def _after_a_dot(key: str, name: str) -> bool:
    return key == name or re.match(rf".*\.{key}$", name) is not None


def _anywhere(key: str, name: str) -> bool:
    return re.search(key, name) is not None


# How peft matches the keys of a pattern.
_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "C3A": _after_a_dot,
    "FOURIERFT": _after_a_dot,
    "OSF": _anywhere,
}
