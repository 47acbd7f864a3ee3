"""The base model before any method touched it: its identity, and its fresh tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug import structure
from ftplug.base.fingerprint import Fingerprint, fingerprint_of, sampled
from ftplug.base.license import cached_license
from ftplug.base.own_config import own_use_cache
from ftplug.base.revision import cached_revision
from ftplug.errors import FtplugError
from ftplug.structure.shards import numel_of

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

_CACHE = re.compile(r"models--(?P<id>.+?)[/\\]snapshots[/\\](?P<sha>[0-9a-f]{40})$")


@dataclass(frozen=True)
class Base:
    """The base model as given: ``fresh`` names the parameters that are in no checkpoint, ``head``
    those and the task head. ``path`` (where it was loaded from) is never written to a file.
    ``license`` is the one its own card names, where that card is on this machine. ``use_cache`` is
    what its own config says, not the Trainer's.
    """

    id: str | None
    revision: str | None
    license: str | None
    path: str | None
    cls: type[PreTrainedModel]
    fresh: tuple[str, ...]
    head: tuple[str, ...]
    total: int
    fingerprint: Fingerprint | None
    use_cache: bool | None = None


def inspect_base(
    model: nn.Module, fresh: Sequence[str] | None = None, *, trainer_is_built: bool = False
) -> Base:
    """Describe an untouched model; reads a fixed sample of its values, in seconds at any size.

    ``fresh`` names the parameters that are in no checkpoint, where a manifest knows them;
    ``trainer_is_built`` says that a Trainer has set what it sets in a config.
    """
    parameters = dict(model.named_parameters())
    loaded = _loaded_by_transformers(model)
    head = structure.task_head(model)
    if fresh is None and loaded:
        # transformers marks what it read from a checkpoint; the rest was drawn at random just now.
        missing = [n for n, p in parameters.items() if not getattr(p, "_is_hf_initialized", False)]
        fresh = missing + _resized_embeddings(model)
    elif fresh is None:
        fresh = head
    inner = structure.pretrained(model)
    identity, revision = _identity(model)
    own = {n: p for n, p in parameters.items() if n not in fresh}
    samples = sampled(own)
    digests = fingerprint_of(samples) if samples else None
    if identity and loaded and samples and not revision:
        revision = cached_revision(identity, samples)
    return Base(
        id=identity,
        revision=revision,
        license=cached_license(identity, revision, getattr(inner.config, "_name_or_path", None)),
        path=_path(inner) if loaded else None,
        cls=type(inner),
        fresh=tuple(name for name in parameters if name in fresh),
        head=tuple(name for name in parameters if name in fresh or name in head),
        total=sum(numel_of(p) for p in parameters.values()),
        fingerprint=digests,
        use_cache=own_use_cache(model, trainer_is_built=trainer_is_built),
    )


def _path(model: PreTrainedModel) -> str | None:
    """Return from where the base can be read again, wherever the process goes meanwhile."""
    path = str(getattr(model.config, "_name_or_path", "") or "")
    return str(Path(path).resolve()) if path and Path(path).exists() else path or None


def base_identity(model: nn.Module) -> dict[str, str | None]:
    """Return Hub id and commit sha of a model, as manifests and messages name them."""
    identity, revision = _identity(model)
    return {"id": identity, "revision": revision}


def _loaded_by_transformers(model: nn.Module) -> bool:
    return any(getattr(p, "_is_hf_initialized", False) for p in model.parameters())


def _identity(model: nn.Module) -> tuple[str | None, str | None]:
    """Return Hub id and commit sha; a local path never leaves the machine, so it has neither.

    The config in a wrapper that reads its weights itself says where the architecture is from.
    """
    inner = structure.pretrained(model)
    if inner is not model and not _loaded_by_transformers(model):
        return None, None
    path = str(getattr(inner.config, "_name_or_path", "") or "")
    sha = getattr(inner.config, "_commit_hash", None)
    if cached := _CACHE.search(path):
        return cached["id"].replace("--", "/"), cached["sha"]
    if not path or Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") > 1:
        return None, None
    return path, sha


def _resized_embeddings(model: nn.Module) -> list[str]:
    """Return the embeddings whose row count differs from the checkpoint's config.

    ``resize_token_embeddings`` copies transformers' mark to the new tensor, whose added rows are
    in no checkpoint. The checkpoint's own config, read from disk or cache, tells.
    """
    from transformers import AutoConfig

    inner = structure.pretrained(model)
    path = getattr(inner.config, "_name_or_path", "")
    embedding = _input_embeddings(inner)
    if not path or embedding is None:
        return []
    try:
        original = AutoConfig.from_pretrained(
            path, revision=getattr(inner.config, "_commit_hash", None), local_files_only=True
        )
    except (OSError, ValueError):
        return []  # not on this machine: nothing to compare with
    rows = getattr(original.get_text_config(), "vocab_size", None)
    weights = [embedding.weight, getattr(inner.get_output_embeddings(), "weight", None)]
    if rows is None or embedding.num_embeddings == rows:
        return []
    return [n for n, p in model.named_parameters() if any(p is w for w in weights)]


def _input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    try:
        embedding = model.get_input_embeddings()
    except (NotImplementedError, AttributeError, FtplugError):
        return None
    return embedding if getattr(embedding, "num_embeddings", None) else None
