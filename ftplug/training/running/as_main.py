"""A script as ``__main__`` of this process, as ``python SCRIPT`` or ``-m MODULE`` run it."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ftplug.errors import FtplugError


def run_as_main(command: Sequence[str], *, module: bool) -> None:
    """Do what ``python SCRIPT`` or ``python -m MODULE`` does, in this process."""
    name, path, argv = command[0], sys.path[0], sys.argv
    sys.argv = list(command)
    try:
        if module:
            sys.path[0] = os.getcwd()
            runpy.run_module(name, run_name="__main__", alter_sys=True)
            return
        script = Path(name)
        if not script.is_file():
            raise FtplugError(f"no script at {name}: ftplug run … -- SCRIPT ARGS (or -m MODULE)")
        sys.path[0] = str(script.resolve().parent)
        runpy.run_path(os.path.abspath(name), run_name="__main__")  # as __file__ is to python
    except ImportError as error:
        if module and name.partition(".")[0] in str(error) and "No module named" in str(error):
            raise FtplugError(f"no module named {name}: {error}") from error
        raise
    finally:
        sys.path[0], sys.argv = path, argv


def print_from_script(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a script's traceback as ``python SCRIPT`` would, without the launcher's frames."""
    start, frame = trace, trace
    while frame is not None and frame.tb_frame.f_code is not run_as_main.__code__:
        frame = frame.tb_next
    while frame is not None and frame.tb_frame.f_globals.get("__name__") in (__name__, "runpy"):
        start = frame = frame.tb_next
    sys.__excepthook__(kind, error.with_traceback(start), start)
