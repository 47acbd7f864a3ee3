"""Names of tensors in peft's file, and the base's modules that go into it whole.

In memory a tensor is ``bert…query.lora_A.default.weight``; in peft's file the same tensor is
``base_model.model.bert…query.lora_A.weight``. What all layers share is on peft's tuner there
(``base_model.vera_A``); in memory it is below the first layer that uses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import RunView

ADAPTER = "default"


def layout(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], run: RunView
) -> tuple[dict[str, str], list[str]]:
    """Return ``{in-memory name: key in peft's file}`` and the modules saved whole.

    Tensors that peft's format cannot hold are in neither: the host writes them beside.
    """
    import peft

    shared = {f"base_model.{key}": tensors[name] for name, key in _shared(tensors).items()}
    adapter = peft.get_peft_model_state_dict(
        model,
        state_dict=dict(tensors) | shared,
        adapter_name=ADAPTER,
        save_embedding_layers=False,
    )
    names = {id(tensor): name for name, tensor in tensors.items()}
    keys: dict[str, str] = {}
    for key, tensor in adapter.items():
        name = names.get(id(tensor), f"{key}.{ADAPTER}")  # SHiRA's indices come from the layer
        keys[name] = key if key.startswith("base_model.") else f"base_model.model.{key}"
    modules = whole_modules(model, of_base(run) & set(tensors))
    for name in tensors:
        if name.startswith(tuple(f"{module}." for module in modules)):
            keys[name] = f"base_model.model.{name}"
    return keys, modules


# What peft keeps on its tuner, once.
_ON_TUNER = ("vera_A", "vera_B", "pvera_A", "pvera_B", "randlora_A", "randlora_B", "frod_V",
             "frod_s_indices", "frod_s_size", "vblora_vector_bank", "tinylora_v",
             "unilora_theta_d")  # fmt: skip


def _shared(names: Iterable[str]) -> dict[str, str]:
    """Return ``{in-memory name: name on peft's tuner}`` of what all layers share."""
    on_tuner: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part in _ON_TUNER), None)
        if place is not None:
            on_tuner[name] = ".".join(parts[place:])
    return on_tuner


def tied(model: nn.Module, inside: tuple[str, ...]) -> bool:
    """Whether a parameter below these modules is used by a module elsewhere, too."""
    where: dict[int, set[bool]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        where.setdefault(id(parameter), set()).add(name.startswith(inside))
    return any(len(places) > 1 for places in where.values())


def of_base(run: RunView) -> frozenset[str]:
    """Return the names of the base's own parameters that trained or were fresh.

    peft cannot save a module that another method added.
    """
    return (run.may_train - run.added) | run.base.fresh


def whole_modules(model: nn.Module, names: Collection[str]) -> list[str]:
    """Return the largest modules all of whose parameters are in ``names``, e.g. ``classifier``."""
    whole: list[str] = []
    for path, module in model.named_modules():
        if not path or any(path.startswith(f"{outer}.") for outer in whole):
            continue
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if own and all(name in names for name in own):
            whole.append(path)
    return whole
