"""What every method built on peft shares: its files, switching it off, merging it.

In memory a tensor is ``bert…query.lora_A.default.weight``; in peft's file the same tensor is
``base_model.model.bert…query.lora_A.weight``. Heads and fresh modules go in as ``modules_to_save``,
so that ``PeftModel.from_pretrained`` restores them too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftplug.attachment import require_attachment
from ftplug.errors import MethodError
from ftplug.plan import saved_tensors
from ftplug.tensors import read_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

ADAPTER = "default"
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

TASK_TYPES = {
    "text-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "text-generation": "CAUSAL_LM",
    "text2text-generation": "SEQ_2_SEQ_LM",
    "feature-extraction": "FEATURE_EXTRACTION",
}


def save(model: nn.Module, directory: Path, tensors: Mapping[str, torch.Tensor]) -> Iterable[str]:
    """Write peft's two files and return the names of the tensors they hold.

    Where peft's format cannot hold all of them nothing is written: half an adapter would load
    without a word.
    """
    keys, modules = _layout(model, tensors)
    inside = tuple(f"{module}." for module in modules)
    targeted = any(n.startswith(inside) and (".base_layer." in n or ".lora_" in n) for n in tensors)
    if set(keys) != set(tensors) or targeted or _tied(model, inside):
        return ()
    return _write(model, directory, _config(model), tensors, keys, modules)


def save_prompt(
    model: nn.Module,
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    embedding: str,
    config: Any,
) -> Iterable[str]:
    """Write the two files of virtual tokens, whose rows are in the tensor named ``embedding``.

    peft's format holds them and whole modules of the base. Where another method added more,
    nothing is written: half an adapter would load without a word.
    """
    modules = whole_modules(model, set(tensors) & _of_base(model))
    inside = tuple(f"{module}." for module in modules)
    keys = {name: f"base_model.{name}" for name in tensors if name.startswith(inside)}
    keys[embedding] = "prompt_embeddings"
    if set(keys) != set(tensors):
        return ()
    return _write(model, directory, config, tensors, keys, modules)


def load_prompt(directory: Path, embedding: str) -> Mapping[str, torch.Tensor]:
    """Read what ``save_prompt`` wrote under in-memory names; another method's file is not ours."""
    path = directory / WEIGHTS_FILE
    tensors = read_tensors(path) if path.is_file() else {}
    if "prompt_embeddings" not in tensors:
        return {}
    return {
        embedding if key == "prompt_embeddings" else key.removeprefix("base_model."): tensor
        for key, tensor in tensors.items()
    }


def _write(
    model: nn.Module,
    directory: Path,
    config: Any,
    tensors: Mapping[str, torch.Tensor],
    keys: Mapping[str, str],
    modules: list[str],
) -> list[str]:
    from safetensors.torch import save_file

    save_file(
        {key: tensors[name].contiguous() for name, key in keys.items()},
        directory / WEIGHTS_FILE,
        metadata={"format": "pt"},
    )
    config = copy.copy(config)
    attached = require_attachment(model)
    config.base_model_name_or_path = attached.base.id  # peft would store a local path
    config.revision = attached.base.revision
    config.task_type = TASK_TYPES.get(attached.context.task or "")
    config.inference_mode = True
    if hasattr(config, "target_modules"):
        config.target_modules = _in_order(config.target_modules)
    config.modules_to_save = modules or None
    config.save_pretrained(str(directory))
    return list(keys)


def load(model: nn.Module, directory: Path) -> Mapping[str, torch.Tensor]:
    """Read the weights file under in-memory names; a stray key keeps its own name."""
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        return {}
    expected = saved_tensors(model, require_attachment(model).plan)
    keys, _ = _layout(model, expected)
    names = {key: name for name, key in keys.items()}
    return {names.get(key, key): tensor for key, tensor in read_tensors(path).items()}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch every peft layer off within the block; one that is off already stays off."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    tuned = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    layers = [layer for layer in tuned if not layer.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge(model: nn.Module) -> None:
    """Fold each peft layer into the layer it wraps and put that layer back in its place."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    targets = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in targets:
        if not hasattr(layer, "merge"):
            raise MethodError(f"merge: {type(layer).__name__} at {name} cannot be merged")
        if _tied(model, (f"{name}.",)):
            raise MethodError(f"merge: {name} shares its weight with another layer: untie it first")
    for name, layer in targets:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config


def _config(model: nn.Module) -> Any:
    """Return the config that peft keeps on the model; its class is the method's own."""
    return cast("dict[str, Any]", model.peft_config)[ADAPTER]


def _in_order(targets: object) -> object:
    return sorted(targets) if isinstance(targets, set | list) else targets


def _layout(
    model: nn.Module, tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, str], list[str]]:
    """Return ``{in-memory name: key in peft's file}`` and the modules saved whole.

    Tensors that peft's format cannot hold are in neither: the host writes them beside.
    """
    import peft

    adapter = peft.get_peft_model_state_dict(
        model, state_dict=dict(tensors), adapter_name=ADAPTER, save_embedding_layers=False
    )
    names = {id(tensor): name for name, tensor in tensors.items()}
    keys = {names[id(tensor)]: f"base_model.model.{key}" for key, tensor in adapter.items()}
    modules = whole_modules(model, set(tensors) & _of_base(model))
    for name in tensors:
        if name.startswith(tuple(f"{module}." for module in modules)):
            keys[name] = f"base_model.model.{name}"
    return keys, modules


def _tied(model: nn.Module, inside: tuple[str, ...]) -> bool:
    """Whether a parameter below these modules is used by a module elsewhere, too."""
    where: dict[int, set[bool]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        where.setdefault(id(parameter), set()).add(name.startswith(inside))
    return any(len(places) > 1 for places in where.values())


def _of_base(model: nn.Module) -> set[str]:
    """Return the names of the base's own tensors: modules that methods added peft cannot save."""
    attached = require_attachment(model)
    return {*attached.plan.existing, *attached.base.fresh}


def whole_modules(model: nn.Module, names: set[str]) -> list[str]:
    """Return the largest modules all of whose parameters are in ``names``, e.g. ``classifier``."""
    whole: list[str] = []
    for path, module in model.named_modules():
        if not path or any(path.startswith(f"{outer}.") for outer in whole):
            continue
        own = [f"{path}.{name}" for name, _ in module.named_parameters()]
        if own and all(name in names for name in own):
            whole.append(path)
    return whole
