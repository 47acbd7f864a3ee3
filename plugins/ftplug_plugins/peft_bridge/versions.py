"""The differences between the versions of peft that a run may meet, from 0.18 on.

Presence is asked: a type is there if peft names it, a setting if peft's config class has the field.
``since.json`` records which version had each first, for messages (``tools/peft_generate.py``).
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ftplug import MethodError


def installed() -> str:
    """Return the version of the installed peft, which is not imported: that takes seconds."""
    return importlib.metadata.version("peft")


def types() -> frozenset[str]:
    """Return the types that the installed peft has, such as ``LORA``."""
    mapping = sys.modules.get("peft.mapping")
    if mapping is None and (listed := _listed_in_source()):
        return listed
    return frozenset(configs())


@functools.cache
def recorded() -> Mapping[str, Mapping[str, list[str]]]:
    """Return ``{type: {version: settings}}``: the first version to have a type and its settings.

    These are the types that methods here are written for.
    """
    path = Path(__file__).with_name("since.json")
    content: dict[str, dict[str, list[str]]] = json.loads(path.read_text(encoding="utf-8"))
    return content


def lacking(peft_type: str) -> str:
    """Return ``needs peft ≥ 0.20 (found 0.19.1)`` for a type that is not there, else nothing."""
    if peft_type in types():
        return ""
    return _needs(min(recorded().get(peft_type, ()), key=_number, default=""))


def check_settings(method: str, peft_type: str, changed: Iterable[str]) -> None:
    """Refuse settings, changed from their default, that the installed peft does not know.

    peft is imported only where one of them is younger than its type.
    """
    versions = sorted(recorded().get(peft_type, {}).items(), key=lambda item: _number(item[0]))
    younger = {name: version for version, names in versions[1:] for name in names}
    if asked := [name for name in changed if name in younger]:
        present = _fields(configs()[peft_type])
        for name in asked:
            if name not in present:
                raise MethodError(f"{method}: {name} {_needs(younger[name])}")


def build_config(
    method: str, cls: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Any:
    """Return peft's config of these values.

    What its class has no field for must be at its default here, and is left out: 0.18 lacks
    ``use_bdlora``, 0.19 ``random_seed``.
    """
    present = _fields(cls)
    for name, value in values.items():
        if name not in present and not (name in defaults and defaults[name] == value):
            raise MethodError(f"{method}: {name} {_setting_needs(cls, name)}")
    return cls(**{name: value for name, value in values.items() if name in present})


def block_diagonal(settings: Mapping[str, Any]) -> Any:
    """Return BD-LoRA's config; peft 0.18 has none, and ``build_config`` then says so.

    Goes when 0.19 is the oldest.
    """
    from peft.tuners.lora import config

    return getattr(config, "BdLoraConfig", dict)(**settings)


def complete_prompt_config(config: Any, base: Any) -> None:
    """Fill in heads and dimensions of virtual tokens from the base model's config.

    peft 0.18 reads it as a dictionary, later ones prefer the config itself. Goes when 0.19 is the
    oldest.
    """
    from peft.utils import _prepare_prompt_learning_config

    prepare: Any = _prepare_prompt_learning_config  # it has no types
    if config.num_layers is None:  # an attribute of all configs, a key of few dictionaries
        config.num_layers = getattr(base, "num_hidden_layers", None)
    try:
        prepare(config, base)
    except (TypeError, ValueError):  # what is no dictionary, or lacks keys
        prepare(config, base.to_dict())


def detach(buffers: Any) -> None:
    """Cut a dictionary of buffers from the graph they were computed in.

    Before 0.21 peft keeps the start of trainable tokens with it, and such a tensor cannot be
    deepcopied. Goes when 0.21 is the oldest.
    """
    for name, tensor in list(buffers.items()):
        buffers[name] = tensor.detach()


def group_embeddings(optimizer: Any, model: Any) -> None:
    """Move LoRA on embeddings into LoRA+'s second group, whose rate is theirs.

    Before 0.21 peft never finds them and trains them at the rate of A. Goes when that is the
    oldest.
    """
    rest, embeddings, *_ = optimizer.param_groups
    if not embeddings["params"]:
        named = [p for n, p in model.named_parameters() if ".lora_embedding_" in n]
        theirs = {id(parameter) for parameter in named}
        embeddings["params"] = [p for p in rest["params"] if id(p) in theirs]
        rest["params"] = [p for p in rest["params"] if id(p) not in theirs]


@contextmanager
def seeded_svd() -> Iterator[None]:
    """Let AdaMSS decompose weights from one seed within the block: other subspaces fit no file.

    From 0.20 on peft does so itself, from its ``random_seed``, 0 by default. Goes when that is the
    oldest.
    """
    from peft.tuners.adamss import layer

    module: Any = layer
    decompose = module.slice_pca
    if "random_seed" in inspect.signature(decompose).parameters:
        yield
        return

    def seeded(tensor: Any, r: int, device: Any, *rest: Any) -> Any:
        import torch

        with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
            torch.manual_seed(0)
            return decompose(tensor, r, device, *rest)

    module.slice_pca = seeded
    try:
        yield
    finally:
        module.slice_pca = decompose


def configs() -> dict[str, Any]:
    """Return peft's config classes by type, also where a type is no member of the enum."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

    return {getattr(kind, "value", kind): cls for kind, cls in CONFIGS.items()}


@functools.cache
def _listed_in_source() -> frozenset[str]:
    """Read the members of ``PeftType``; nothing where they are not written out there."""
    spec = importlib.util.find_spec("peft")
    places = (spec.submodule_search_locations if spec else None) or ()
    for place in places:
        try:
            tree = ast.parse((Path(place) / "utils" / "peft_types.py").read_text("utf-8"))
        except (OSError, SyntaxError):
            continue
        return frozenset(
            str(member.value.value)
            for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == "PeftType"
            for member in node.body
            if isinstance(member, ast.Assign) and isinstance(member.value, ast.Constant)
        )
    return frozenset()


def _fields(cls: Any) -> set[str]:
    return {field.name for field in fields(cls) if field.init}


def _setting_needs(cls: Any, name: str) -> str:
    kind = next((kind for kind, config in configs().items() if config is cls), "")
    versions = recorded().get(kind, {})
    return _needs(next((version for version, names in versions.items() if name in names), ""))


def _needs(version: str) -> str:
    """Say what is missing, and of a name that is gone again that it is."""
    if version and _number(version) > _number(installed()):
        return f"needs peft ≥ {version} (found {installed()})"
    return f"is not in the installed peft {installed()}"


def _number(version: str) -> tuple[int, ...]:
    """Return the major and minor version to compare, as ``since.json`` records them."""
    return tuple(int(part) for part in version.split(".")[:2])
