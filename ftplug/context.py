"""What a method may know about the run it is prepared for."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments

logger = logging.getLogger("ftplug")


@dataclass(frozen=True)
class Context:
    """Facts about a run, handed to ``prepare_model``.

    ``args`` is None outside a Trainer; ``total_steps`` is None where it is not known in advance;
    ``loading`` is True when an artifact's values follow, so that data-dependent initialisation
    may be skipped.
    """

    seed: int
    task: str | None
    model_class: str
    args: TrainingArguments | None = None
    total_steps: int | None = None
    loading: bool = False
    logger: logging.Logger = logger
