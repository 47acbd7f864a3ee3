"""The names in peft's settings: each matches something of the model, or the setting is refused.

peft ignores a name that matches nothing as long as another one does, and what a pattern or a part
of a path would exclude. Here both become the names of the modules that they mean.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug import MethodError
from ftplug.structure import linear_layers, read_past
from ftplug_plugins.peft_bridge.targets import fused_attentions, not_plain

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"
SPECIAL = re.compile(r"[*?\[\](){}|^$+\\]")  # of a glob or a regular expression
_SHOWN = 8  # names in a message


@dataclass(frozen=True)
class Names:
    """What there is in a model to be named, for the settings of one method."""

    method: str
    model: nn.Module

    @property
    def modules(self) -> list[str]:
        """All modules."""
        return [name for name, _ in self.model.named_modules() if name]

    @property
    def layers(self) -> list[str]:
        """The modules with weights of their own, and linear ones whatever they are made of."""
        linear = linear_layers(self.model)
        own = {name for name, module in self.model.named_modules() if module._parameters}
        return [name for name in self.modules if name in linear or name in own]

    def refuse(self, setting: str, name: object, known: Collection[str], what: str) -> None:
        """Say that a name matches nothing, with the nearest ones and those that there are."""
        depth = str(name).count(".") + 1
        ends = sorted({_end(one, depth) for one in known})
        near = difflib.get_close_matches(str(name), ends, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        last = sorted({_end(one, 2 if what == "parameter" else 1) for one in known})
        shown = ", ".join(last[:_SHOWN]) + (" …" if len(last) > _SHOWN else "")
        raise MethodError(
            f"{self.method}: {setting}: {str(name)!r} matches no {what} of "
            f"{type(self.model).__name__}: {hint}(there are {shown})"
        )


def resolve_names(method: str, config: Any, model: nn.Module) -> None:
    """Put the modules that a config's names mean in their place.

    Raises MethodError for a name that matches nothing.
    """
    names = Names(method, model)
    if excluded := listed(getattr(config, "exclude_modules", None)):
        config.exclude_modules = _resolved("exclude_modules", excluded, names, _below)
    asked = getattr(config, "target_modules", None)
    if isinstance(asked, str):
        if asked != ALL_LINEAR and not any(re.fullmatch(asked, name) for name in names.modules):
            names.refuse("target_modules", asked, names.layers, "module")
    elif targets := listed(asked):
        config.target_modules = _resolved("target_modules", targets, names, _targets)
    for name in listed(getattr(config, "feedforward_modules", None)):
        if not any(_ends(module, name) or re.fullmatch(name, module) for module in names.modules):
            names.refuse("feedforward_modules", name, names.layers, "module")


def check_patterns(method: str, config: Any, model: nn.Module) -> None:
    """Refuse layers, patterns and parameters of a config that fit none of its targets."""
    names = Names(method, model)
    parameters = [name for name, _ in model.named_parameters()]
    for name in listed(getattr(config, "target_parameters", None)):
        if not any(_ends(parameter, name) for parameter in parameters):
            names.refuse("target_parameters", name, parameters, "parameter")
    for pattern in listed(getattr(config, "layers_pattern", None)):
        if not any(re.match(rf"(?:^|.*?\.){pattern}\.\d+\.", module) for module in names.modules):
            names.refuse("layers_pattern", pattern, names.modules, "list of layers")
    _check_layers(names, config)
    _check_reached(names, config)
    own = [p for p in parameters if _named(p, listed(getattr(config, "target_parameters", None)))]
    for setting, given in vars(config).items():
        if not setting.endswith("_pattern") or not isinstance(given, Mapping):
            continue
        targets = [*targeted(config, names), *own]
        for key in given:
            if not any(re.match(rf"(.*\.)?({key})$", target) for target in targets):
                names.refuse(setting, key, targets, "target")


def _check_layers(names: Names, config: Any) -> None:
    asked = getattr(config, "layers_to_transform", None)
    for index in [asked] if isinstance(asked, int) else asked or ():
        one = copy(config)
        one.layers_to_transform = [index]
        if not targeted(one, names):
            every = copy(config)
            every.layers_to_transform = None
            count = len({m[1] for t in targeted(every, names) if (m := re.search(r"\.(\d+)\.", t))})
            raise MethodError(
                f"{names.method}: layers_to_transform: there is no target in a layer {index} of "
                f"{type(names.model).__name__} (its targets are in {count} layers, from 0 on)"
            )


def _check_reached(names: Names, config: Any) -> None:
    """Refuse layers on what a model, or torch's attention, takes the weights of past any layer.

    Likewise on what has the features of a linear layer and does more.
    """
    attentions, more = fused_attentions(names.model), set(not_plain(names.model))
    past = read_past(names.model)
    for target in targeted(config, names):
        if target in past:
            raise MethodError(
                f"{names.method}: {target} would have no effect: {past[target]} reads its weight "
                f"and never calls it: leave {_end(target, 1)} out, as target_modules=all-linear "
                "does, or train it as it is with freeze (train=…)"
            )
        if target in more:
            raise MethodError(
                f"{names.method}: {target} is no plain linear layer but a {_kind(names, target)}: "
                f"exclude_modules={_end(target, 1)}, or train it as it is with freeze (train=…)"
            )
        for attention in attentions:
            if f"{target}.".startswith(f"{attention}."):
                raise MethodError(
                    f"{names.method}: {target} is (part of) an nn.MultiheadAttention, which reads "
                    f"its weights without calling a layer: exclude_modules={attention}, or train "
                    "it as it is with freeze (train=…)"
                )


def _kind(names: Names, module: str) -> str:
    return type(names.model.get_submodule(module)).__name__


def targeted(config: Any, names: Names) -> list[str]:
    """Return the modules that peft would put layers on."""
    from peft.tuners.tuners_utils import check_target_module_exists

    asked = config.target_modules
    if asked == ALL_LINEAR:
        excluded = listed(getattr(config, "exclude_modules", None))
        return [n for n in linear_layers(names.model) if not _named(n, excluded)]
    if asked is None:
        return []
    # What it excludes is an object that is false.
    return [name for name in names.modules if check_target_module_exists(config, name)]


def _resolved(setting: str, entries: Collection[str], names: Names, meant: Any) -> list[str]:
    found: dict[str, None] = {}
    for entry in entries:
        modules = meant(entry, names)
        if not modules:
            names.refuse(setting, entry, names.layers, "module")
        found |= dict.fromkeys(modules)
    return list(found)


def _below(entry: str, names: Names) -> list[str]:
    """Return the layers that a name, a part of a path, a glob or a regular expression means."""
    return [layer for layer in names.layers if f".{entry}." in f".{layer}." or _fits(entry, layer)]


def _targets(entry: str, names: Names) -> list[str]:
    """Return an entry that peft understands as it is, else the linear layers that it means."""
    if entry == ALL_LINEAR or any(_ends(layer, entry) for layer in names.layers):
        return [entry]
    linear = linear_layers(names.model)
    return [name for name in _below(entry, names) if name in linear]


def _fits(pattern: str, name: str) -> bool:
    """Whether a glob or a regular expression means a module, or one that it lies in."""
    if not SPECIAL.search(pattern):
        return False
    parts = name.split(".")
    paths = [".".join(parts[start:]) for start in range(len(parts))]
    if any(fnmatch.fnmatchcase(path, pattern) for path in paths):
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False  # a glob, such as *.query


def _end(name: str, depth: int) -> str:
    """Return the last parts of a name, without the numbers of layers."""
    return ".".join(part for part in name.split(".")[-depth:] if not part.isdigit())


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _named(name: str, ends: Iterable[str]) -> bool:
    return any(_ends(name, end) for end in ends)


def listed(given: Any) -> list[str]:
    """Return a setting of one name, of several or of none as a list."""
    return [given] if isinstance(given, str) else sorted(given or ())
