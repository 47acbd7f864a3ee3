"""Other processes that a script starts: launchers of trainings are refused, Pythons are noted."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

from ftplug.context import logger
from ftplug.errors import MethodError
from ftplug.frames import calling_module

# What starts training scripts as processes of their own, which know nothing of this one: as
# modules on the call stack or after -m, and as programs.
_MODULES = ("accelerate.commands.launch", "torch.distributed.run", "deepspeed.launcher.runner")
_PROGRAMS = ("accelerate", "deepspeed", "torchrun")


@contextmanager
def watched_processes(name: str, has_trainer: Callable[[], bool]) -> Iterator[list[str]]:
    """Refuse a launcher that script ``name`` starts or is: no method would reach its processes.

    Another Python may train or not: before the script's first Trainer it is warned about, and what
    it runs is in the list that is yielded.
    """
    start, pythons = subprocess.Popen.__init__, list[str]()

    @functools.wraps(start)
    def start_unless_launcher(self: Any, args: Any, *more: Any, **options: Any) -> None:
        words = _words(args)
        if launcher := calling_module(_MODULES) or _launcher(words):
            raise MethodError(
                f"{name} starts its training in another process ({launcher}), which no method "
                "would reach: run the training script itself (for `trl sft …` it is -m -- "
                "trl.scripts.sft …), or, on several processes, `accelerate launch -m ftplug run … "
                "-- SCRIPT …`"
            )
        if not has_trainer() and (code := _python_code(words)):
            logger.warning(
                "%s starts another Python process, which no method reaches: if that is what "
                "trains, stop it and run ftplug run … %s", name, code,
            )  # fmt: skip
            pythons.append(code)
        start(self, args, *more, **options)

    subprocess.Popen.__init__ = start_unless_launcher  # type: ignore[method-assign]
    try:
        yield pythons
    finally:
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]


def _words(command: Any) -> list[str]:
    """Return a command as Popen takes it (text, path or sequence of both) as words."""
    if isinstance(command, str):
        words = command.split()  # not shlex: a shell takes more than that can read
    else:
        parts = [command] if isinstance(command, bytes | os.PathLike) else command
        words = [os.fsdecode(part) for part in parts]
    return list(dropwhile(lambda word: "=" in word, words))  # a shell's settings in front


def _launcher(words: list[str]) -> str | None:
    """Return the launcher that a command is, as a program or with -m."""
    program = Path(words[0]).name if words else ""
    module = next((m for flag, m in pairwise(words) if flag == "-m"), None)
    return program if program in _PROGRAMS else module if module in _MODULES else None


def _python_code(words: list[str]) -> str | None:
    """Return what to give ``ftplug run`` for the file or module that a Python is started with."""
    if not words or not (words[0] == sys.executable or Path(words[0]).name == "python"):
        return None
    code = list(
        dropwhile(lambda word: word.startswith("-") and word not in ("-c", "-m"), words[1:])
    )
    if code[:1] == ["-m"] and len(code) > 1:
        return f"-m -- {code[1]} …"
    return f"-- {code[0]} …" if code and code[0].endswith(".py") else None
