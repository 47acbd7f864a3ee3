"""An artifact's base: built from an id or folder as the manifest describes it, and fingerprinted.

The manifest may be a stranger's: its config is not trusted with code, and with no more memory than
base and artifact have.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.manifest import Manifest
from ftplug.base.fingerprint import Fingerprint, fingerprint
from ftplug.errors import ArtifactError, one_line
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from torch import nn

_MOST_LABELS = 10_000  # without names: more make a config slow to build
_CHOOSES_CODE = {
    "attn_implementation",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "experts_implementation",
    "quantization_config",
    "torch_dtype",
    "trust_remote_code",
}


def base_model(base: str | os.PathLike[str], manifest: Manifest, directory: Path) -> nn.Module:
    """Load the artifact's model class, with its labels and settings, from a base id or folder."""
    import transformers

    name = str(manifest.model.get("class"))
    cls: Any = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ArtifactError(
            f"{directory}: {name!r} is no model class of transformers: "
            "build the model yourself and pass it instead of an id"
        )
    revision = manifest.base.get("revision") if str(base) == manifest.base.get("id") else None
    try:
        config_class: Any = cls.config_class
        config = config_class.from_dict(_harmless(manifest.model.get("config") or {}, directory))
        own = config_class.from_pretrained(base, revision=revision or "main")
        _check_size(cls, config, own, manifest, directory)
        # A fresh head and resized embeddings do not fit the base's: the artifact brings its own.
        with quiet(bars=True):  # its report would call the head untrained that comes next
            model: nn.Module = cls.from_pretrained(
                base, config=config, revision=revision or "main", ignore_mismatched_sizes=True
            )
    except ArtifactError:
        raise
    except Exception as error:  # a stranger's config may raise anything
        raise ArtifactError(f"cannot load the base {str(base)!r}: {one_line(error)}") from error
    return model


def _harmless(config: Any, directory: Path) -> Any:
    """Return a stranger's config without what chooses code or how to load, at any depth.

    A kernel's name makes transformers fetch native code, a count of labels makes as many names.
    """
    if isinstance(config, list):
        return [_harmless(part, directory) for part in config]
    if not isinstance(config, dict):
        return config
    count, names = config.get("num_labels"), config.get("id2label")
    if names is None and isinstance(count, int) and count > _MOST_LABELS:
        raise ArtifactError(f"{directory}: its config has {count:,} labels and names none of them")
    dropped = _CHOOSES_CODE | ({"num_labels"} if names is not None else set())
    return {
        name: _harmless(value, directory)
        for name, value in config.items()
        if name not in dropped and not str(name).startswith("_")
    }


def _check_size(cls: Any, config: Any, own: Any, manifest: Manifest, directory: Path) -> None:
    """Refuse a config that asks for more than its base and its files hold, before any is allocated.

    What a config has beyond its base (a head, added tokens) comes in the artifact's own files.
    """
    import torch

    layers, limit = (getattr(c, "num_hidden_layers", None) or 0 for c in (config, own))
    if layers > limit:
        raise ArtifactError(f"{directory}: its config has {layers} layers, the base {limit}")
    with torch.device("meta"):
        asked, there = (sum(p.numel() for p in cls(c).parameters()) for c in (config, own))
    held = sum(entry["size"] for entry in manifest.files.values())
    if asked - there > held:
        raise ArtifactError(
            f"{directory}: its config describes {asked - there:,} parameters more than the base "
            f"has, and its files of {held:,} bytes do not hold them"
        )


def base_fingerprint(model: nn.Module, manifest: Manifest) -> Fingerprint | None:
    """Return the fingerprint of a base as the artifact's was taken: without its fresh tensors."""
    fresh = set(manifest.base.get("fresh", ()))
    return fingerprint({n: p for n, p in model.named_parameters() if n not in fresh})
