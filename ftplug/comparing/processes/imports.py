"""Imported by the server of cells once: what a script is likely to import, so that none waits.

Nothing here may start a thread or touch a GPU: cells are forked from the process that holds it.
"""

from __future__ import annotations

import gc
import importlib
import warnings
from contextlib import suppress

from ftplug.quiet import quiet_bitsandbytes

NAMES = (
    "torch",
    "transformers",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.auto.processing_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.bert.tokenization_bert",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "peft",
    "datasets",
    "evaluate",
    "sklearn.metrics",
    "pydantic.type_adapter",
    "safetensors.numpy",
    "matplotlib.figure",  # a card has a picture
    "matplotlib.backends.backend_agg",
    "scipy.stats",
    "optuna",
    "ftplug.training.script",
    "ftplug.comparing.cell",
    "ftplug.comparing.processes.keeper",
)

quiet_bitsandbytes()
for name in NAMES:
    # What is missing or broken here, the script meets by itself.
    with warnings.catch_warnings(action="ignore"), suppress(Exception):
        importlib.import_module(name)
gc.collect()
gc.freeze()  # so that a cell's collections leave these pages shared
