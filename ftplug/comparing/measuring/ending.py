"""How a cell ends before its script does, and what an exception of the script's means."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from ftplug.comparing.results import Status
from ftplug.errors import NonFiniteError, one_line

_LONGEST = 300  # characters of a reason
_NO_MEMORY = re.compile(
    r"out[ -]of[ -]memory|can't allocate memory|Cannot allocate memory|ALLOC_FAILED", re.IGNORECASE
)


class Ended(BaseException):
    """Ends a cell: no ``except Exception`` of a script catches it, and the rest does not run."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


def status_of(error: BaseException) -> tuple[Status, str]:
    """Return how a cell ended whose script raised, and the reason in one line."""
    for cause in _causes(error):
        if isinstance(cause, Ended):
            return cause.status, cause.reason
        if isinstance(cause, NonFiniteError):
            return "diverged", one_line(cause)
        if _is_out_of_memory(cause):
            return "out_of_memory", _in_short(cause)
    return "failed", _in_short(error)


def exit_reason(code: object) -> str | None:
    """Return why a script's ``sys.exit`` is a failure, or None if it is none."""
    if code in (None, 0):
        return None
    said = f"the script exited with code {code}" if isinstance(code, int) else one_line(code)
    return said[:_LONGEST]


def _in_short(error: BaseException) -> str:
    said = one_line(error)
    return (f"{type(error).__name__}: {said}" if said else type(error).__name__)[:_LONGEST]


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError | OSError) and bool(_NO_MEMORY.search(str(error)))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it came from."""
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__
