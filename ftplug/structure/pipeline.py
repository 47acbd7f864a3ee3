"""The modules that stand around a transformers model in sentence-transformers: pooling and more.

They belong to the answer as the weights do. An artifact records them, and loading puts them onto a
base that has others, as ``SentenceTransformer(base)`` of a plain folder has a mean over the tokens.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftplug.errors import MethodError, one_line
from ftplug.structure.versions import sentence_modules

if TYPE_CHECKING:
    from torch import nn

# How a text is read and the answer made; each is an attribute that can be set.
READING: Mapping[str, type] = {
    "max_seq_length": int,
    "prompts": dict,
    "default_prompt_name": str,
    "truncate_dim": int,
}


def pipeline_of(model: nn.Module) -> dict[str, Any] | None:
    """Return modules and reading of a sentence-transformers model, as JSON; None of any other."""
    if not _is_pipeline(model):
        return None
    modules = [_described(module) for module in list(model.children())[1:]]
    return {"modules": modules} | {name: getattr(model, name, None) for name in READING}


def set_pipeline(model: nn.Module, wanted: Mapping[str, Any] | None) -> list[str]:
    """Give a model the modules and the reading of :func:`pipeline_of`; return what it now has.

    Empty where it had all of it. Modules that have no weights are put in place of the model's own.
    Others must be there, of the same kind: raises MethodError that names them, nothing changed.
    """
    if not wanted or not _is_pipeline(model):
        return []
    asked = wanted.get("modules")
    own = list(model.children())
    changes = {
        name: wanted[name]
        for name, kind in READING.items()
        if isinstance(wanted.get(name), kind) and getattr(model, name, None) != wanted[name]
    }
    modules = _built(asked, own[1:]) if isinstance(asked, list) else own[1:]
    for name, value in changes.items():
        setattr(model, name, value)
    changed = [type(new).__name__ for new in modules if not any(new is old for old in own)]
    if changed or len(modules) != len(own) - 1:
        for name in list(model._modules)[1:]:
            del model._modules[name]
        for index, module in enumerate(modules, start=1):
            model.add_module(str(index), module)
        changed = [type(module).__name__ for module in modules] or ["no further module"]
    return [*changed, *(f"{name}={value!r}" for name, value in changes.items())]


def _is_pipeline(model: nn.Module) -> bool:
    from torch import nn

    return isinstance(model, nn.Sequential) and hasattr(model, "encode")


def _described(module: nn.Module) -> dict[str, Any]:
    settings = getattr(module, "get_config_dict", None)
    return {"name": type(module).__name__, "config": settings() if settings else {}}


def _built(asked: Sequence[Any], own: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the modules that are asked for: the model's own where they are the same."""
    built: list[nn.Module] = []
    for entry, there in zip_longest(asked, own[: len(asked)]):
        if there is not None and entry == _described(there):
            built.append(there)
            continue
        try:
            new = _without_weights(entry)
        except Exception as error:  # of a manifest that anybody may have written
            wanted = ", ".join(str(e.get("name") if isinstance(e, dict) else e) for e in asked)
            raise MethodError(
                f"it was trained with the modules {wanted} after the transformer, which this base "
                "does not have: build it with them, SentenceTransformer(modules=[…]) "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        # Versions of sentence-transformers write the settings of one module differently.
        same = there is not None and _described(new) == _described(there)
        built.append(there if same else new)
    return built


def _without_weights(entry: Any) -> nn.Module:
    """Build one of sentence-transformers' modules that hold no weights, as it reads its files."""
    cls = {known.__name__: known for known in sentence_modules()}[entry["name"]]
    config = dict(entry["config"])
    with ExitStack() as within:
        try:
            folder = within.enter_context(tempfile.TemporaryDirectory())
            name = getattr(cls, "config_file_name", "config.json")
            Path(folder, name).write_text(json.dumps(config), encoding="utf-8")
        except OSError:  # no room for one: the settings of all versions, but for older names
            return cast("nn.Module", cls(**config))
        return cast("nn.Module", cls.load(folder))
