"""Looks at the model that a script trains, for ``--try default``; nothing is trained."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.comparing.processes.keeper import end_group, last_line
from ftplug.comparing.processes.warm import start_server, started
from ftplug.errors import FtplugError, one_line

if TYPE_CHECKING:
    from transformers import TrainerCallback


def model_class_of(command: Sequence[str], *, module: bool) -> str:
    """Return the class name of the model of a script's first Trainer, in a process of its own.

    Raises :class:`FtplugError` where the script builds none.
    """
    start_server()
    with tempfile.TemporaryDirectory(prefix="ftplug-look-") as folder:
        log = Path(folder) / "log.txt"
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = started(look, command, module, os.getcwd(), log, theirs)
        theirs.close()
        try:
            kind, said = ours.recv()
        except EOFError:
            kind, said = "error", last_line(log) or "the script ended before it built a Trainer"
        finally:
            end_group(process)
    if kind == "error":
        raise FtplugError(f"--try default: {command[0]} shows no model: {said}")
    return str(said)


def look(command: Sequence[str], module: bool, folder: str, log: Path, answer: Connection) -> None:
    """Run the script in this process up to its first Trainer, and send what it trains."""
    if hasattr(os, "setsid"):
        os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    threading.Thread(target=_end_with_the_command, daemon=True).start()
    looking = _looking()
    try:
        looking.run(command, module=module)
    except SystemExit as done:
        if isinstance(done.code, str):
            print(done.code, file=sys.stderr, flush=True)
    except BaseException as error:
        answer.send(("error", f"{type(error).__name__}: {one_line(error)}"))
        return
    if looking.found:
        answer.send(("model", looking.found[0]))


def _end_with_the_command() -> None:
    command = multiprocessing.parent_process()
    assert command is not None
    wait([command.sentinel])
    os.killpg(0, signal.SIGKILL)


def _looking() -> Any:
    """Return a launch that ends where the first Trainer stands."""
    from transformers import TrainerCallback

    from ftplug.frames import trainer_in_construction
    from ftplug.training.script import Launch

    @dataclass
    class Looking(Launch):
        found: list[str] = field(default_factory=list)

        def callbacks_of_a_trainer(self) -> list[TrainerCallback]:
            return [Seen(self)]

    class Seen(TrainerCallback):
        def __init__(self, launch: Looking) -> None:
            self.launch = launch
            launch.trainers += 1

        def on_init_end(self, *_: Any, **__: Any) -> None:
            self.launch.found.append(type(trainer_in_construction(self).model).__name__)
            sys.exit(0)

    Looking.reaches_children = False
    return Looking([])
