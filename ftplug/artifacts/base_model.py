"""An artifact's base: built from an id or folder as the manifest describes it, and fingerprinted.

The manifest may be a stranger's: its config is not trusted with code, and with no more memory than
base and artifact have.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.manifest import Manifest
from ftplug.artifacts.strangers.bounded import Limit, bounded
from ftplug.artifacts.strangers.harmless import model_config
from ftplug.attaching.changing import changes_model
from ftplug.base.fingerprint import Fingerprint, fingerprint
from ftplug.errors import ArtifactError, one_line
from ftplug.quiet import quiet

if TYPE_CHECKING:
    from torch import nn


# Beyond its base, a config may have a head; values of buffers (masks) are no larger than these.
_MORE_MODULES = 100
_MORE_VALUES = 2**24
_SECONDS = 10


@changes_model
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
        own = config_class.from_pretrained(base, revision=revision or "main")
        given = manifest.model.get("config") or {}
        config = config_class.from_dict(model_config(given, own, directory))
        _check_size(cls, config, own, manifest, directory)
        if hasattr(own, "use_cache"):  # older manifests have the Trainer's
            config.use_cache = own.use_cache
        # A fresh head and resized embeddings do not fit the base's: the artifact brings its own.
        # transformers' report would call the head untrained that comes next.
        with quiet(bars=True), _unwarned():
            model: nn.Module = cls.from_pretrained(
                base, config=config, revision=revision or "main", ignore_mismatched_sizes=True
            )
    except ArtifactError:
        raise
    except Exception as error:  # a stranger's config may raise anything
        raise ArtifactError(f"cannot load the base {str(base)!r}: {one_line(error)}") from error
    return model


def _check_size(cls: Any, config: Any, own: Any, manifest: Manifest, directory: Path) -> None:
    """Refuse a config that asks for more than its base and its files hold, before any is allocated.

    What a config has beyond its base (a head, added tokens) comes in the artifact's own files.
    """
    import torch

    layers, limit = (getattr(c, "num_hidden_layers", None) or 0 for c in (config, own))
    if layers > limit:
        raise ArtifactError(f"{directory}: its config has {layers} layers, the base {limit}")
    held = sum(entry["size"] for entry in manifest.files.values())
    start = time.monotonic()
    with torch.device("meta"), bounded(Limit(), directory) as trusted:
        there = _size(cls(own))
    limit = Limit(
        modules=trusted.modules + trusted.modules // 2 + _MORE_MODULES,
        values=2 * trusted.values + held + _MORE_VALUES,
        seconds=_SECONDS + 5 * (time.monotonic() - start),
    )
    with torch.device("meta"), bounded(limit, f"{directory}: its config"), _unwarned():
        asked = _size(cls(config))
    if asked - there > held:
        raise ArtifactError(
            f"{directory}: its config describes {asked - there:,} parameters more than the base "
            f"has, and its files of {held:,} bytes do not hold them"
        )


@contextmanager
def _unwarned() -> Iterator[None]:
    """Keep what torch warns of sizes that a stranger chose from the user's screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def base_fingerprint(model: nn.Module, manifest: Manifest) -> Fingerprint | None:
    """Return the fingerprint of a base as the artifact's was taken: without its fresh tensors."""
    fresh = set(manifest.base.get("fresh", ()))
    return fingerprint({n: p for n, p in model.named_parameters() if n not in fresh})
