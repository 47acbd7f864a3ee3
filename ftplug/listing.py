"""The text and the rows of ``ftplug methods``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, get_args

from ftplug.discovery import Entry
from ftplug.errors import MethodError
from ftplug.method import Kind, Method

_HEADINGS: Mapping[str, str] = {
    "selection": "Train some of the model's own parameters",
    "structure": "Add modules, and train those",
    "schedule": "Train different parameters in different steps",
    "optimizer": "Bring an optimizer: alone for the whole model, or for what another method trains",
    "regularizer": "Add a penalty to what another method, or the whole model, trains",
    "execution": "Train nothing, and change how another method's training is computed",
}


def overview(
    methods: Mapping[str, type[Method]], further: Mapping[str, Iterable[str]] = MappingProxyType({})
) -> str:
    """Return the list of methods by kind, each with its summary; refused ones come last.

    ``further`` are the names that families offer beyond the list, by the family's title.
    """
    width = max(map(len, methods), default=0)
    lines: list[str] = []
    for kind in get_args(Kind):
        usable = {n: m for n, m in methods.items() if m.kind == kind and not m.refused}
        if usable:
            lines += ["", f"{_HEADINGS.get(kind, kind)}:"]
            lines += [f"  {name:{width}}  {cls.summary()}" for name, cls in usable.items()]
    if refused := {name: cls for name, cls in methods.items() if cls.refused}:
        lines += ["", "Not usable here (ftplug methods NAME says why, and what to use):"]
        lines += [f"  {name:{width}}  {cls.summary()}" for name, cls in refused.items()]
    more = [f"{title} has more: {', '.join(names)}" for title, names in further.items()]
    lines += ["", *(f"{line} (ftplug methods NAME)" for line in more)] if more else []
    return "\n".join([*lines[1:], "", "ftplug methods NAME shows a method's settings."])


def row(cls: type[Method], entry: Entry) -> dict[str, Any]:
    """Return what ``--json`` prints of a method."""
    try:
        lr = cls.configure({}).suggested_learning_rate()
    except MethodError:  # a setting without a default: the class's own range
        lr = cls.learning_rate
    return {
        "name": cls.name,
        "kind": cls.kind,
        "summary": cls.summary(),
        "refused": cls.refused or None,
        "paper": cls.paper,
        "citation": cls.citation,
        "distribution": entry.distribution,
        "version": entry.version,
        "learning_rate": lr._asdict() if lr else None,
        "settings": [setting.__dict__ for setting in cls.describe()],
    }


def page(row: Mapping[str, Any]) -> str:
    """Return what is known of one method, from its row."""
    lines = [
        f"{row['name']} ({row['kind']}, {row['distribution']} {row['version']})",
        f"  {row['summary']}",
    ]
    if row["refused"]:
        lines.append(f"  not usable here: {row['refused']}")
    if row["paper"]:
        lines.append(f"  {row['paper']}")
    if lr := row["learning_rate"]:
        lines.append(
            f"  learning rate {lr['low']:g} to {lr['high']:g}; --lr suggested: {lr['suggested']:g}"
        )
    for setting in row["settings"]:
        default = _as_typed(setting["default"])
        lines.append(f"  --set {setting['name']}={default}  ({setting['type']})")
        lines.append(f"      {setting['help']}")
    return "\n".join(lines)


def _as_typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
