"""Generate what the family of peft's methods is built from: names, types, defaults, one-line help.

``python tools/peft_generate.py`` writes ``types.json``, ``since.json`` and, between two marker
comments, the entry points in ``pyproject.toml``. Listing methods then needs no ``import peft``.

``since.json`` records the first version that has a type or a setting. Run the tool with each older
peft first on PYTHONPATH as well: it then only puts the earlier version into that file. A type or
setting that the newest peft brings is recorded with its version when the tool runs with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftplug_plugins.peft_family.about import ABOUT
from ftplug_plugins.peft_family.declared import class_name, method_name, settings_of

ROOT = Path(__file__).parents[1]
DATA = ROOT / "plugins/ftplug_plugins/peft_family/types.json"
SINCE = ROOT / "plugins/ftplug_plugins/peft_bridge/since.json"
PYPROJECT = ROOT / "pyproject.toml"
BEGIN = "# peft's methods: python tools/peft_generate.py"
END = "# end of peft's methods"

# These have a file of their own, each with settings chosen by hand.
OWN_FILE = {"LORA", "PREFIX_TUNING", "PROMPT_TUNING"}


def generated() -> dict[str, Any]:
    """Return the content of ``types.json`` for the installed peft."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    return {
        "peft": peft.__version__,
        "types": {
            method_name(kind.value): {
                "type": kind.value,
                "settings": settings_of(kind.value, CONFIGS[kind]),
            }
            for kind in sorted(peft.PeftType, key=lambda kind: kind.value)
            if kind.value not in OWN_FILE
        },
    }


def entry_points() -> str:
    """Return the lines between the markers in ``pyproject.toml``."""
    names = generated()["types"]
    lines = [f'{name} = "ftplug_plugins.peft_family.family:{class_name(name)}"' for name in names]
    return "\n".join([BEGIN, *lines, END])


def data_text() -> str:
    """Return ``types.json`` as it should be: one line for each setting."""
    content = generated()
    lines = ["{", f' "peft": {json.dumps(content["peft"])},', ' "types": {']
    for name, entry in content["types"].items():
        lines.append(f'  {json.dumps(name)}: {{"type": {json.dumps(entry["type"])}, "settings": {{')
        lines += _rows(
            f"   {json.dumps(setting)}: {json.dumps(row, ensure_ascii=False)}"
            for setting, row in entry["settings"].items()
        )
        lines.append("  }},")
    lines[-1] = "  }}"
    return "\n".join([*lines, " }", "}"]) + "\n"


def since_text() -> str:
    """Return ``since.json`` with what the installed peft says: one line for each type."""
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    common = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    present = {
        kind.value: [f.name for f in dataclasses.fields(cls) if f.init and f.name not in common]
        for kind, cls in CONFIGS.items()
    }
    recorded = json.loads(SINCE.read_text("utf-8")) if SINCE.is_file() else {}
    merged = since(recorded, present, peft.__version__, whole=not is_older())
    rows = _rows(f" {json.dumps(kind)}: {json.dumps(row)}" for kind, row in sorted(merged.items()))
    return "\n".join(["{", *rows, "}"]) + "\n"


def since(
    recorded: Mapping[str, Mapping[str, list[str]]],
    present: Mapping[str, Iterable[str]],
    version: str,
    *,
    whole: bool,
) -> dict[str, dict[str, list[str]]]:
    """Return ``{type: {version: settings it brought}}`` with what one version has.

    Every setting stands at the earliest version that was seen with it. An older version adds no
    name: what has gone since is not offered. ``whole`` says that the version has all there is.
    """
    minor = ".".join(version.split(".")[:2])
    merged: dict[str, dict[str, list[str]]] = {}
    for kind in present if whole else recorded:
        first = {name: v for v, names in recorded.get(kind, {}).items() for name in names}
        for name in present.get(kind, ()):
            if whole or name in first:
                first[name] = min(minor, first.get(name, minor), key=_number)
        rows = merged[kind] = {}
        for v in sorted(set(first.values()), key=_number):
            rows[v] = sorted(name for name in first if first[name] == v)
    return merged


def is_older() -> bool:
    """Whether the installed peft is older than the one that ``types.json`` was made with."""
    import peft

    made_with = json.loads(DATA.read_text("utf-8"))["peft"]
    return _number(peft.__version__) < _number(made_with)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _rows(rows: Iterable[str]) -> list[str]:
    listed = list(rows)
    return [f"{row}," for row in listed[:-1]] + listed[-1:]


def with_entry_points(pyproject: str) -> str:
    """Return ``pyproject.toml`` with the lines between the markers as they should be."""
    before, _, rest = pyproject.partition(BEGIN)
    return before + entry_points() + rest.partition(END)[2]


def main() -> None:
    """Write the files; a type without an entry in ``about.py`` is named."""
    SINCE.write_text(since_text(), encoding="utf-8")
    if is_older():
        return
    unknown = [name for name in generated()["types"] if name not in ABOUT]
    if unknown:
        raise SystemExit(f"about.py says nothing of {', '.join(unknown)}: add a line for each")
    DATA.write_text(data_text(), encoding="utf-8")
    PYPROJECT.write_text(with_entry_points(PYPROJECT.read_text("utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
