"""The methods' own states (``run.state``) in a checkpoint; artifacts have none.

One file holds all of them, each tensor as ``METHOD/KEY``. It is there only where some state is not
empty. A tensor that was on an accelerator comes back on the model's device, any other on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.contents import Contents
from ftplug.artifacts.digests import FileEntry, file_entry
from ftplug.errors import MethodError, one_line
from ftplug.structure.shards import is_shard

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.attaching.attachment import Attachment

METHOD_STATE = "ftplug_method_state.safetensors"
_ON_DEVICE = "device"  # what the file's metadata says of a tensor that was not on the CPU


def write_method_state(attached: Attachment, directory: Path) -> dict[str, FileEntry]:
    """Write the states of all methods; returns the file as the manifest lists it, or nothing.

    Raises :class:`MethodError` naming method and key of what is no tensor of values.
    """
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    metadata = {"format": "pt"}
    for method in attached.host.methods:
        for key, value in attached.facts.states.get(method.name, {}).items():
            copied = _copied(method.name, key, value)
            tensors[f"{method.name}/{key}"] = copied
            if value.device != copied.device:
                metadata[f"{method.name}/{key}"] = _ON_DEVICE
    if not tensors:
        return {}
    save_file(tensors, directory / METHOD_STATE, metadata)
    return {METHOD_STATE: file_entry(directory / METHOD_STATE)}


def read_method_state(
    model: nn.Module, contents: Contents, files: Mapping[str, FileEntry]
) -> dict[str, Tensor]:
    """Read the states that a checkpoint's manifest lists, each tensor on its device."""
    if METHOD_STATE not in files:
        return {}
    read = contents.tensor_file(METHOD_STATE)
    device = next(model.parameters()).device
    return {
        name: value.to(device) if read.metadata.get(name) == _ON_DEVICE else value
        for name, value in read.tensors.items()
    }


def restore_method_state(attached: Attachment, tensors: Mapping[str, Tensor]) -> None:
    """Give each method the state that was read; one of which the file has nothing gets none.

    In place: a dict that a method was given before stays the one it is given later.
    """
    for method in attached.host.methods:
        prefix = f"{method.name}/"
        state = attached.facts.states.setdefault(method.name, {})
        state.clear()
        state |= {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _copied(method: str, key: Any, value: Any) -> Tensor:
    """Return a copy on the CPU, which shares memory with nothing, or say why there is none."""
    import torch
    from safetensors.torch import save

    where = f"{method}: run.state[{key!r}]"
    if not isinstance(key, str):
        raise MethodError(f"{where}: keys are texts, not {type(key).__name__}")
    if not isinstance(value, torch.Tensor):
        raise MethodError(
            f"{where} is of type {type(value).__name__}, not a tensor: keep torch.tensor(…) there"
        )
    if is_shard(value):
        raise MethodError(f"{where} is one process's shard of a tensor: keep the whole one there")
    try:
        copied = value.detach().to("cpu", copy=True).contiguous()
        save({"": copied.flatten()[:0]})  # a look at its type
    except Exception as error:  # of the meta device, sparse, or of a type that files lack
        raise MethodError(f"{where} cannot be written: {one_line(error)}") from error
    return copied
