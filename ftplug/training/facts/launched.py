"""The script of a run: its name, its sha256, and its arguments without paths and secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftplug.artifacts.digests import sha256
from ftplug.files.credentials import is_secret_name, masked

_MOST = 60  # arguments
_LONGEST = 80  # characters of one
_PATH, _HIDDEN = "[path]", "[hidden]"
_LIKE_A_PATH = re.compile(r"[~./\\]|[A-Za-z]:[\\/]|file:")  # how one begins


def script_facts(command: Sequence[str], *, module: bool) -> dict[str, Any]:
    """Return what a manifest keeps of ``SCRIPT ARGS…`` or, with ``module``, ``MODULE ARGS…``."""
    path = Path(command[0])
    facts: dict[str, Any] = {"name": command[0] if module else path.name}
    if not module and path.is_file():
        facts["sha256"] = sha256(path)
    arguments = list(_harmless(command[1:]))
    facts["arguments"] = arguments[:_MOST]
    if len(arguments) > _MOST:
        facts["arguments_left_out"] = len(arguments) - _MOST
    return facts


def _harmless(arguments: Sequence[str]) -> Iterator[str]:
    """Yield arguments without what is one machine's own: paths, tokens, values of secrets."""
    is_secret = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if is_secret and not argument.startswith("-"):
            yield _HIDDEN
        elif argument.startswith("-") and equals:
            yield f"{option}={_HIDDEN if is_secret_name(option) else _value(value)}"[:_LONGEST]
        else:
            yield _value(argument)
        is_secret = argument.startswith("-") and not equals and is_secret_name(argument)


def _value(text: str) -> str:
    """Return a value, shortened; a Hub id ``org/name`` is one, whatever lies there is none."""
    if text.startswith("-"):
        return masked(text)[:_LONGEST]
    if (_LIKE_A_PATH.match(text) and text not in (".", "..")) or "\\" in text:
        return text if _is_number(text) else _PATH
    if text.count("/") > 1 or (os.sep in text and os.path.exists(text)):
        return _PATH
    return masked(" ".join(text.split()))[:_LONGEST]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
