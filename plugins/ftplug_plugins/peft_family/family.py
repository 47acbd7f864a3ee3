"""Every method of peft under its own name, built from peft's own config classes.

``types.json`` holds the settings as peft declares them (generated: see ``peft_generate``),
``peft_about`` a summary and the paper. The entry points name classes of this module; each is built
when it is first asked for, so listing methods imports no peft.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from ftplug import Method
from ftplug_plugins.peft_bridge.method import PeftMethod
from ftplug_plugins.peft_family import adalora, adaption_prompt, poly, prompt_encoders
from ftplug_plugins.peft_family import refused as peft_refused
from ftplug_plugins.peft_family import special as peft_kinds
from ftplug_plugins.peft_family.about import ABOUT

__all__ = ["Annotated", "Any", "ClassVar", "Literal"]  # the generated annotations name them

# Methods of peft that need more than an injection, by the class that knows how.
BASES: dict[str, type[Method]] = {
    "adalora": adalora.AdaLora,
    "adamss": peft_kinds.Adamss,
    "cartridge": prompt_encoders.Cartridge,
    "adaption-prompt": adaption_prompt.AdaptionPrompt,
    "boft": peft_kinds.FromValues,
    "cpt": peft_refused.Cpt,
    "frod": peft_kinds.Frod,
    "multitask-prompt-tuning": prompt_encoders.MultitaskPromptTuning,
    "osf": peft_kinds.Osf,
    "p-tuning": prompt_encoders.PTuning,
    "poly": poly.Poly,
    "psoft": peft_kinds.Psoft,
    "shadow": peft_refused.Shadow,
    "shira": peft_kinds.Shira,
    "trainable-tokens": peft_kinds.TrainableTokens,
    "unilora": peft_kinds.Unilora,
    "xlora": peft_refused.Xlora,
}


@functools.cache
def types() -> dict[str, dict[str, Any]]:
    """Return the generated description of peft's methods, by name."""
    path = Path(__file__).with_name("types.json")
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["types"]
    return found


def build(name: str) -> type[Method]:
    """Return the method class for a name such as ``trainable-tokens``."""
    entry, about = types()[name], ABOUT[name]
    base = BASES.get(name, PeftMethod)
    body: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": about.summary + "\n\n" + (base.__doc__ or ""),
        "name": name,
        "peft_type": entry["type"],
        "paper": about.paper,
        "learning_rate": about.learning_rate,
    }
    annotations = body["__annotations__"] = {}
    for setting, row in entry["settings"].items():
        annotations[setting] = f"Annotated[{row['type']}, {row['help']!r}]"
        body[setting] = _field(row["default"])
    cls = type(_class_name(name), (base,), body)
    return dataclasses.dataclass(frozen=True, eq=False)(cls)


def _field(default: Any) -> Any:
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict)
    if isinstance(default, list):
        return tuple(default)
    return default


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def __getattr__(attribute: str) -> type[Method]:
    """Build the class that an entry point names; it then stays in the module."""
    for name in types():
        if _class_name(name) == attribute:
            cls = globals()[attribute] = build(name)
            return cls
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
