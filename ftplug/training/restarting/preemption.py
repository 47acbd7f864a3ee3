"""``ftplug run --preemptible``: a signal ends training after a checkpoint that all processes write.

transformers' ``enable_jit_checkpoint`` decides in each process by itself, saves before the step is
logged, knows SIGTERM alone, and lets the script go on after it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ftplug.context import logger

_NAMES = ("SIGTERM", "SIGUSR1")  # the second one is not known to Windows


class Preemption:
    """The signals that a training of this process got, and what they come to.

    ``saved`` is the step of the checkpoint that was written last.
    """

    def __init__(self) -> None:
        self.saved: int | None = None
        self._received = 0
        self._ends = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note the signals of a training; one that came too late for it comes again after it."""
        if threading.current_thread() is not threading.main_thread():
            logger.warning("--preemptible has no effect: this training is not in the main thread")
            yield
            return
        self._received, self._ends = 0, False
        numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        if len(numbers) < len(_NAMES):
            logger.warning("--preemptible: this system has no SIGUSR1: SIGTERM alone is noted")
        for number in numbers:
            self._before[number] = signal.signal(number, self._note)
        try:
            yield
        finally:
            if not self._ends:  # else a launcher's further signals are of no more use
                self._leave()
        if self._received:
            signal.raise_signal(self._received)

    def _note(self, number: int, frame: Any) -> None:
        self._received = number

    def _leave(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # else somebody took our place
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def agreed(self, device: torch.device) -> int:
        """Return the number of a signal that any process got, the same in all; 0 for none."""
        group = torch.distributed
        if not (group.is_available() and group.is_initialized()):
            return self._received
        number = torch.tensor(self._received, device=device)
        group.all_reduce(number, op=group.ReduceOp.MAX)
        return int(number)

    def end(self, number: int, *, say: bool) -> None:
        """Let the script's own handler of the signal act, and end the process: 128 + number."""
        self._ends = True
        name, code = signal.Signals(number).name, 128 + number
        if say:
            step = "none" if self.saved is None else f"checkpoint-{self.saved}"
            print(f"ftplug: {name}: the last checkpoint is {step}, exit {code}", file=sys.stderr)
        handler = self._before.get(number)
        if callable(handler):
            handler(number, None)
        raise SystemExit(code)
