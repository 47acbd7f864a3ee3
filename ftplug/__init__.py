"""ftplug: switch the fine-tuning method of any Hugging Face Trainer run, publish the result.

Importing it loads neither torch, transformers nor peft: names are resolved when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftplug.lazy import lazy_names

if TYPE_CHECKING:
    from ftplug.artifact import save
    from ftplug.attachment import apply, disabled
    from ftplug.binding import FTPlugCallback, attach
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
    from ftplug.loading import load
    from ftplug.merging import merge
    from ftplug.method import LearningRate, Method

__version__ = "0.1.0"

_HOME = {
    "FTPlugCallback": "binding",
    "attach": "binding",
    "apply": "attachment",
    "disabled": "attachment",
    "save": "artifact",
    "load": "loading",
    "merge": "merging",
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
    "disabled",
    "hookimpl",
    "load",
    "merge",
    "methods",
    "save",
]


__getattr__, __dir__ = lazy_names(__name__, _HOME)
