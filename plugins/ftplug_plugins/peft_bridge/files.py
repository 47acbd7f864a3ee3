"""peft's files and layers, for every method built on peft: written, read, switched off, merged.

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

from ftplug import MethodError
from ftplug.context import one_line, read_tensors
from ftplug.structure import named_tensors
from ftplug_plugins.peft_bridge.injected import forget, injections
from ftplug_plugins.peft_bridge.keys import ADAPTER, layout, of_base, tied, whole_modules
from ftplug_plugins.peft_bridge.literal import put_into

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftplug.context import RunView

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


def save(
    model: nn.Module,
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    run: RunView,
    computed: tuple[str, ...] = (),
    config: Any = None,
) -> Iterable[str]:
    """Write peft's two files and return the names of the tensors they hold.

    Where peft's format cannot hold all of them nothing is written: half an adapter would load
    without a word. ``computed`` names buffers that peft itself computes from the base: the host
    keeps their exact values beside its files. ``config`` is written in place of the model's own.
    """
    if len(injections(model)) > 1:
        return ()  # two methods: peft would read one config
    keys, modules = layout(model, tensors, run)
    keys = {n: key for n, key in keys.items() if not _is_any(n, computed)}
    inside = tuple(f"{module}." for module in modules)
    adapted = tuple(f"{name}." for name, _ in tuner_layers(model))
    targeted = any(n.startswith(inside) and n.startswith(adapted) for n in tensors)
    missing = [n for n in tensors if n not in keys and not _is_any(n, computed)]
    if missing or targeted or tied(model, inside):
        return ()
    config = copy.copy(config or config_of(model))
    for injection in injections(model):
        put_into(config, injection.literal)
    return _write(run, directory, config, tensors, keys, modules)


def _is_any(name: str, attributes: tuple[str, ...]) -> bool:
    return any(f".{attribute}." in name for attribute in attributes)


def save_prompt(
    model: nn.Module,
    directory: Path,
    tensors: Mapping[str, torch.Tensor],
    encoder: Mapping[str, str],
    config: Any,
    *,
    run: RunView,
) -> Iterable[str]:
    """Write the two files of virtual tokens; ``encoder`` maps names to keys in peft's file.

    peft's format holds them and whole modules of the base. Where another method added more,
    nothing is written: half an adapter would load without a word.
    """
    modules = whole_modules(model, of_base(run) & set(tensors))
    inside = tuple(f"{module}." for module in modules)
    keys = {name: f"base_model.{name}" for name in tensors if name.startswith(inside)}
    keys |= encoder
    if set(keys) != set(tensors):
        return ()
    return _write(run, directory, config, tensors, keys, modules)


def load_prompt(directory: Path, encoder: Mapping[str, str]) -> Mapping[str, torch.Tensor]:
    """Read what ``save_prompt`` wrote under in-memory names; another method's file is not ours."""
    path = directory / WEIGHTS_FILE
    tensors = read_tensors(path) if path.is_file() else {}
    if "prompt_embeddings" not in tensors:
        return {}
    names = {key: name for name, key in encoder.items()}
    return {names.get(key, key.removeprefix("base_model.")): t for key, t in tensors.items()}


def _write(
    run: RunView,
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
    config.base_model_name_or_path = run.base.id  # peft would store a local path
    config.revision = run.base.revision
    config.task_type = TASK_TYPES.get(run.task or "")
    config.inference_mode = True
    for setting in {"target_modules", "feedforward_modules"} & vars(config).keys():
        setattr(config, setting, _in_order(getattr(config, setting)))
    config.modules_to_save = modules or None
    config.save_pretrained(str(directory))
    return list(keys)


def load(model: nn.Module, directory: Path, *, run: RunView) -> Mapping[str, torch.Tensor]:
    """Read the weights file under in-memory names; a stray key keeps its own name."""
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        return {}
    live: Mapping[str, torch.Tensor] = named_tensors(model)
    keys, _ = layout(model, {name: live[name].detach() for name in run.saved}, run)
    names = {key: name for name, key in keys.items()}
    return {names.get(key, key): tensor for key, tensor in read_tensors(path).items()}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Switch every peft layer off within the block; one that is off already stays off."""
    layers = [layer for _, layer in tuner_layers(model) if not layer.disable_adapters]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge(model: nn.Module, method: str = "merge") -> None:
    """Fold each peft layer into the layer it wraps and put that layer back in its place."""
    targets = tuner_layers(model)
    for name, layer in targets:
        if not hasattr(layer, "merge"):
            raise MethodError(f"{method}: {type(layer).__name__} at {name} cannot be merged")
        if _shares_base(model, layer):
            raise MethodError(
                f"{method}: {name} shares its weight with another layer: untie it first"
            )
    first = {type(layer): layer for _, layer in reversed(targets)}  # of each kind: it is tried
    order = [*first.values(), *(y for _, y in targets if y is not first[type(y)])]
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        for layer in order:
            own = layer.get_base_layer().parameters()
            kept += [(p, p.detach().to("cpu", copy=True)) for p in own]
            layer.merge(safe_merge=True)
    except (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        reason = one_line(error) or "its layers have no merge"
        for layer in order:
            if layer.merged:
                layer.unmerge()
        for parameter, value in reversed(kept):  # exactly: unmerging subtracts
            parameter.data.copy_(value)
        raise MethodError(f"{method}: peft cannot merge it: {reason}") from error
    outer = tuple(f"{name}." for name, _ in targets)
    for name, layer in targets:
        if not name.startswith(outer):  # of two around one module, peft's base is that of both
            model.set_submodule(name, layer.get_base_layer())
    forget(model)


def tuner_layers(model: nn.Module) -> list[tuple[str, Any]]:
    """Return peft's layers by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]


def config_of(model: nn.Module) -> Any:
    """Return the config that peft keeps on the model; its class is the method's own."""
    return cast("dict[str, Any]", model.peft_config)[ADAPTER]


def _in_order(targets: object) -> object:
    return sorted(targets) if isinstance(targets, set | list) else targets


def _shares_base(model: nn.Module, layer: Any) -> bool:
    """Whether another module uses the weight that a layer would be folded into."""
    own = {id(parameter) for parameter in layer.get_base_layer().parameters(recurse=False)}
    places = [p for _, p in model.named_parameters(remove_duplicate=False) if id(p) in own]
    return len(places) > len(own)
