"""The command that makes a comparison again, fit to be shown: no secret in it, no long path."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report import texts
from ftplug.comparing.report.texts import Places, clean
from ftplug.files.credentials import is_secret_name

_LONGEST = 2000  # characters of one argument
_HIDDEN = "…"
_DEMO = "ftplug.demo.script"  # the module that runs where no script is given


def command_again(comparison: Comparison, directory: Path) -> str:
    """Return ``ftplug compare …`` as one types it in the script's folder, a line an option."""
    places = Places.of(comparison.folder)
    options = [*_options(comparison), ("--out", _out(comparison, directory))]
    parts: list[tuple[str, ...]] = [("ftplug", "compare"), *options]
    command = tuple(_without_secrets(comparison.command))
    if comparison.module and command[:1] == (_DEMO,):
        parts += [("--", *command[1:])] if command[1:] else []
    elif command:
        module = ("-m",) if comparison.module else ()
        parts.append((*module, "--", *command))
    lines = (" ".join(_quoted(places.clean(text, _LONGEST)) for text in part) for part in parts)
    return " \\\n  ".join(lines)


def folder_shown(comparison: Comparison, directory: Path) -> str:
    """Return the script's folder: relative to the comparison's where that lies in it, else short.

    Empty where a comparison has none.
    """
    if not comparison.folder:
        return ""
    folder, here = Path(os.path.abspath(comparison.folder)), Path(os.path.abspath(directory))
    if here.is_relative_to(folder):
        return os.path.relpath(folder, here)
    return Places.of().clean(folder)


def _out(comparison: Comparison, directory: Path) -> str:
    folder, here = Path(os.path.abspath(comparison.folder)), Path(os.path.abspath(directory))
    return os.path.relpath(here, folder) if here.is_relative_to(folder) else str(here)


def _options(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    for candidate in comparison.candidates:
        yield "--try", candidate
    rates = comparison.rates
    if rates is not None:
        given = rates if isinstance(rates, str) else ",".join(map(_exactly, rates))
        yield "--lr", given
    yield "--seeds", str(comparison.seeds)
    yield "--baseline", comparison.baseline
    yield "--delta", f"{comparison.delta:g}"
    for option, value in (
        ("--metric", comparison.metric),
        ("--budget-minutes", comparison.budget_minutes),
        ("--dataset-name", comparison.dataset_name),
        ("--retain", comparison.retain),
        ("--seed-arg", comparison.seed_arg),
    ):
        if value is not None:
            yield option, f"{value:g}" if isinstance(value, float) else value
    if comparison.greater_is_better is not None:
        yield ("--more-is-better" if comparison.greater_is_better else "--less-is-better",)


def _exactly(rate: float) -> str:
    """Return a rate as people write it, with all of its digits: with others it is another one."""
    short = texts.rate(rate)
    return short if float(short) == rate else repr(rate)


def _without_secrets(command: Sequence[str]) -> Iterator[str]:
    """Yield arguments; what follows an option whose name says so (``--hub_token``) is hidden."""
    hide = False
    for argument in command:
        name, equals, value = argument.partition("=")
        if hide and not argument.startswith("--"):
            yield _HIDDEN
            hide = False
            continue
        named = is_secret_name(name)
        yield f"{name}={_HIDDEN}" if named and equals and value else argument
        hide = named and not equals and argument.startswith("-")


def _quoted(text: str) -> str:
    """Return an argument for a shell, which still finds a home folder in it."""
    text = clean(text, _LONGEST)
    return f"~/{shlex.quote(text[2:])}" if text.startswith("~/") and text[2:] else shlex.quote(text)
