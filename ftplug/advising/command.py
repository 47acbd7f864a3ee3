"""The command ``ftplug advise``, which joins through the entry point ``ftplug.commands``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ftplug.options import Methods, Settings, configured


def add_commands(app: typer.Typer) -> None:
    """Add advise to the command line."""
    app.command(context_settings={"allow_interspersed_args": False})(advise)


def advise(
    command: Annotated[list[str], typer.Argument(help="SCRIPT ARGS… (or MODULE ARGS… with -m).")],
    method: Methods = [],  # noqa: B006 - typer reads the default
    settings: Settings = [],  # noqa: B006
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Most seconds to measure one change.")
    ] = 20,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write what was seen and said as JSON.")
    ] = None,
    module: Annotated[bool, typer.Option("-m", "--module", help="Run a module.")] = False,
) -> None:
    """Say what would make a script's training cheaper, each with a figure; trains nothing.

    The script runs up to its first train(): its arguments, model and data are looked at, and a few
    steps are measured with and without a change. With --method, as ftplug run would train it.

    Example: ftplug advise --method lora -- train.py --epochs 3
    """
    from ftplug.training import compat

    compat.check_requirements()
    compat.check_transformers()
    from ftplug.advising.launch import Advising

    launch = Advising(configured(method, settings), report=report, seconds=seconds)
    typer.echo(launch.advise(command, module=module))
