"""Other processes that a script starts: launchers of trainings are refused, Pythons are noted."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import dropwhile, pairwise, takewhile
from pathlib import Path
from typing import Any

from ftplug.context import logger
from ftplug.errors import MethodError
from ftplug.frames import calling_module
from ftplug.training.running.telling import RUN, is_told

# What starts training scripts as processes of their own, which know nothing of this one: as
# modules on the call stack or after -m, and as programs.
_MODULES = ("accelerate.commands.launch", "torch.distributed.run", "deepspeed.launcher.runner")
_PROGRAMS = ("accelerate", "deepspeed", "torchrun")
_CODE = ("-c", "-m")  # what follows is what a Python runs, no option of Python's
_TRACKER = "multiprocessing.resource_tracker"  # of the standard library's own


@contextmanager
def watched_processes(name: str, *, reached: bool) -> Iterator[list[str]]:
    """Refuse a launcher that script ``name`` starts or is; say which Pythons no method reaches.

    ``reached`` is whether the run's children are told of it: those that look at their environment
    are reached then. What all Pythons that the script starts run is in the list that is yielded.
    """
    import multiprocessing.util as processes

    start, spawn, pythons = subprocess.Popen.__init__, processes.spawnv_passfds, list[str]()

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
        if (code := _python_code(words)) and not code.startswith("-c"):
            pythons.append(code)
        if code and (why := _reason(words, options.get("env"), reached=reached)):
            logger.warning(
                "%s starts another Python process, which no method reaches (%s): if that is what "
                "trains, stop it and run ftplug run … %s", name, why, code,
            )  # fmt: skip
        start(self, args, *more, **options)

    @functools.wraps(spawn)
    def spawn_and_say(path: Any, args: Any, *more: Any) -> Any:
        words = [os.fsdecode(word) for word in args]
        if not any(_TRACKER in word for word in words) and (
            why := _reason(words, None, reached=reached)
        ):
            logger.warning(
                "%s starts a process by multiprocessing, which no method reaches (%s): if that is "
                "what trains, train in the script's own", name, why,
            )  # fmt: skip
        return spawn(path, args, *more)

    subprocess.Popen.__init__ = start_unless_launcher  # type: ignore[method-assign]
    processes.spawnv_passfds = spawn_and_say  # type: ignore[assignment]
    try:
        yield pythons
    finally:
        subprocess.Popen.__init__ = start  # type: ignore[method-assign]
        processes.spawnv_passfds = spawn


def _reason(words: list[str], environment: Any, *, reached: bool) -> str | None:
    """Return why a Python that is started like this does not see what children are told."""
    if not reached:
        return "it looks at this process alone"
    for word in takewhile(lambda word: word.startswith("-") and word not in _CODE, words[1:]):
        if not word.startswith(("--", "-X", "-W")) and set(word) & set("ISE"):
            return f"it is started with {word}"
    if not is_told(os.environ if environment is None else environment):
        return f"its environment lacks {RUN}, or its PYTHONPATH what ftplug run put there"
    return None


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
    """Return what to give ``ftplug run`` for what a Python is started with; None if it is other.

    Of code on the command line that is only said if it seems to train.
    """
    if not words or not (
        words[0] == sys.executable or re.fullmatch(r"python[\d.]*", Path(words[0]).name)
    ):
        return None
    code = list(dropwhile(lambda word: word.startswith("-") and word not in _CODE, words[1:]))
    if code[:1] == ["-m"] and len(code) > 1:
        return f"-m -- {code[1]} …"
    if code[:1] == ["-c"] and len(code) > 1:
        return "-c …" if re.search("train|transformers", code[1]) else None
    return f"-- {code[0]} …" if code and code[0].endswith(".py") else None
