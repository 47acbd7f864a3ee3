"""Keeping other libraries' reports out of what the user reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Silence transformers' load reports within the block, and its loading bars unless wanted."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def quiet_bitsandbytes() -> None:
    """Drop the line that importing bitsandbytes logs where the CPU has AVX512-BF16.

    transformers' Trainer imports peft, and peft imports bitsandbytes. The line misses a kernel for
    repacked 4-bit weights, which no model with a method has: see :mod:`ftplug.quantization`.
    """
    import logging

    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")
