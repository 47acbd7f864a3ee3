"""The learning rate of a run: the one asked for, and a word where it is far from what fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ftplug.context import logger
from ftplug.errors import MethodError

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from ftplug.method import Method


def set_learning_rate(
    args: TrainingArguments, methods: Sequence[Method], asked: float | Literal["suggested"] | None
) -> None:
    """Set the learning rate asked for; warn when it is far from what the method needs."""
    suggestions = [(method.name, method.suggested_learning_rate()) for method in methods]
    name, known = next(((name, rate) for name, rate in suggestions if rate), ("", None))
    if asked == "suggested":
        if known is None:
            raise MethodError("lr='suggested': none of these methods suggests a learning rate")
        args.learning_rate = known.suggested
    elif asked is not None:
        args.learning_rate = float(asked)
    if known and not known.low <= args.learning_rate <= known.high:
        logger.warning(
            "learning rate %g is outside the usual range of %s, %g to %g: try %g (lr='suggested')",
            args.learning_rate,
            name,
            known.low,
            known.high,
            known.suggested,
        )
