"""A limit on what is built: modules, values and seconds, whatever the config that asks for them.

A depth has many names (``decoder_layers``, ``text_config``, one config inside another); what they
lead to is counted as torch registers it, so that a build ends when it has gone too far.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug.errors import ArtifactError

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Built:
    """What was registered so far: modules, values of parameters and buffers."""

    modules: int = 0
    values: int = 0


@dataclass(frozen=True)
class Limit:
    """The most that may be built; the default is far beyond any model."""

    modules: float = float("inf")
    values: float = float("inf")
    seconds: float = float("inf")


@contextmanager
def bounded(limit: Limit, where: object) -> Iterator[Built]:
    """Count what this thread builds in the block; beyond the limit, an ArtifactError ends it."""
    from torch.nn.modules import module as hooks

    built, start, thread = Built(), time.monotonic(), threading.get_ident()

    def count(modules: int, values: int) -> None:
        if threading.get_ident() != thread:
            return
        built.modules += modules
        built.values += values
        if built.modules > limit.modules:
            raise ArtifactError(f"{where}: it describes more than {limit.modules:,} modules")
        if built.values > limit.values:
            raise ArtifactError(f"{where}: it describes more than {limit.values:,} values")
        if time.monotonic() - start > limit.seconds:
            raise ArtifactError(
                f"{where}: what it describes takes over {limit.seconds:.0f} s to build"
            )

    def tensor(module: nn.Module, name: str, value: Any) -> None:
        count(0, value.numel() if value is not None else 0)

    handles = [
        hooks.register_module_module_registration_hook(lambda *given: count(1, 0)),
        hooks.register_module_parameter_registration_hook(tensor),
        hooks.register_module_buffer_registration_hook(tensor),
    ]
    try:
        yield built
    finally:
        for handle in handles:
            handle.remove()
