"""What a base's own config says where a training says otherwise for its own time: ``use_cache``.

The Trainer sets it to its argument when it is built, and scripts switch it off beside activation
checkpointing: what is saved, or merged, generates with a cache as the base does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug import structure

if TYPE_CHECKING:
    from torch import nn

_NAME = "use_cache"


def own_use_cache(model: nn.Module, *, trainer_is_built: bool) -> bool | None:
    """Return the base's own value; None where its config has none.

    It is read from where the base was loaded. For one that was built from a config it is what the
    model has, or its class's default where a Trainer has set it already.
    """
    config = structure.pretrained(model).config
    if (loaded := _as_loaded(config)) is not None:
        return getattr(loaded, _NAME, None)
    if trainer_is_built:
        try:
            return getattr(type(config)(), _NAME, None)
        except Exception:  # a stranger's config may need arguments
            return getattr(config, _NAME, None)
    return getattr(config, _NAME, None)


def _as_loaded(config: Any) -> Any:
    """Return the config in the base's folder or in the Hub's cache; None where there is none."""
    path = getattr(config, "_name_or_path", "")
    if not path:
        return None
    try:
        return type(config).from_pretrained(
            path, revision=getattr(config, "_commit_hash", None), local_files_only=True
        )
    except (OSError, ValueError):
        return None


def give_back_use_cache(model: nn.Module, own: bool | None) -> None:
    """Give a model's config the base's own value."""
    config = structure.pretrained(model).config
    if own is None:
        config.__dict__.pop(_NAME, None)
    else:
        setattr(config, _NAME, own)


@contextmanager
def with_own_use_cache(model: nn.Module, own: bool | None) -> Iterator[None]:
    """Let a model's config have the base's own value within the block, where it is written."""
    attributes = structure.pretrained(model).config.__dict__
    before = {_NAME: attributes[_NAME]} if _NAME in attributes else {}
    give_back_use_cache(model, own)
    try:
        yield
    finally:
        attributes.pop(_NAME, None)
        attributes.update(before)


def portable_config(config: Any, use_cache: bool | None) -> dict[str, Any]:
    """Return the config as JSON values, without the base's path and what loading decides.

    ``use_cache`` is the base's own, not the Trainer's.
    """
    values = json.loads(config.to_json_string(use_diff=True))
    for name in (
        "_name_or_path",
        "dtype",
        "transformers_version",
        "quantization_config",
        "use_cache",
    ):
        values.pop(name, None)
    return dict(values) | ({} if use_cache is None else {"use_cache": use_cache})
