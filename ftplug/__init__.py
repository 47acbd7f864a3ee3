"""ftplug: switch the fine-tuning method of any Hugging Face Trainer run, publish the result.

Importing it loads neither torch, transformers nor peft: names are resolved when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.lazy import lazy_names

if TYPE_CHECKING:
    from ftplug.applying import apply
    from ftplug.artifacts.loading import load
    from ftplug.artifacts.saving import save
    from ftplug.attaching.disabling import disabled
    from ftplug.attaching.merging import merge
    from ftplug.detaching import detach
    from ftplug.discovery import methods
    from ftplug.errors import (
        ArtifactError,
        FtplugError,
        MethodError,
        NonFiniteError,
        PluginError,
        RegistryError,
    )
    from ftplug.hookspecs import hookimpl
    from ftplug.method import LearningRate, Method
    from ftplug.training.binding import FTPlugCallback, attach

__version__ = "0.1.0"

_HOME = {
    "FTPlugCallback": "training.binding",
    "attach": "training.binding",
    "apply": "applying",
    "detach": "detaching",
    "disabled": "attaching.disabling",
    "save": "artifacts.saving",
    "load": "artifacts.loading",
    "merge": "attaching.merging",
    "methods": "discovery",
    "Method": "method",
    "LearningRate": "method",
    "hookimpl": "hookspecs",
    "FtplugError": "errors",
    "PluginError": "errors",
    "MethodError": "errors",
    "NonFiniteError": "errors",
    "ArtifactError": "errors",
    "RegistryError": "errors",
}

__all__ = [
    "ArtifactError",
    "FTPlugCallback",
    "FtplugError",
    "LearningRate",
    "Method",
    "MethodError",
    "NonFiniteError",
    "PluginError",
    "RegistryError",
    "apply",
    "attach",
    "detach",
    "disabled",
    "hookimpl",
    "load",
    "merge",
    "methods",
    "save",
]


__getattr__, __dir__ = lazy_names(__name__, _HOME)
