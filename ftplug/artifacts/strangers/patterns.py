"""Regular expressions in settings: the names that they meant, or a stranger's, tried in a process.

An artifact keeps beside its settings the names that their patterns meant: loading runs none, and
what it means does not change with a library. The settings stay what the user gave, for whoever asks
the method. Where there are no names, ``re`` cannot be interrupted, and some patterns take longer
than the world lasts: a process of its own with a limit on CPU time does the very matching that
follows, and what it finishes is quick here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ftplug.errors import ArtifactError

if TYPE_CHECKING:
    from torch import nn

    from ftplug.method import Method

    AnyMethod = TypeVar("AnyMethod", bound=Method)

_SPECIAL = re.compile(r"[*?\[\](){}|^$+\\]")  # of a glob or a regular expression
_LONGEST = 10_000  # characters of a pattern
_SECONDS, _SECONDS_A_MATCH = 1.0, 2e-5  # of CPU time; a sound pattern takes a tenth
# As peft puts them: names of targets, of layers, keys of rank_pattern and alpha_pattern; globs.
_FORMS = ("{}", r"(.*\.)?({})$", r".*\.{}$", r"(?:^|.*?\.){}\.\d+\.", r".*\.{}\.(\d+)\.")
_WORKER = """
import fnmatch, json, re, signal, sys, warnings
warnings.simplefilter("ignore")
asked = json.load(sys.stdin)
if hasattr(signal, "setitimer"):
    signal.setitimer(signal.ITIMER_PROF, asked["seconds"])
for pattern in asked["patterns"]:
    forms = [form.replace("{}", pattern) for form in asked["forms"]] + [fnmatch.translate(pattern)]
    for number, form in enumerate(forms):
        try:
            compiled = re.compile(form)
        except (re.error, OverflowError, RecursionError):
            continue
        for name in asked["names"]:
            compiled.match(name)
            if number == 0:
                compiled.fullmatch(name)
                compiled.search(name)
"""


def note_names(
    entries: Iterable[dict[str, Any]], methods: Iterable[Method], model: nn.Module
) -> None:
    """Add to a manifest's entries what the methods' patterns mean in a model."""
    named = {method.name: method for method in methods}
    for entry in entries:
        method = named[entry["name"]]
        recorded = vars(method).get("recorded")  # of the artifact that it was loaded from
        found = method.resolved(model) if recorded is None else recorded
        if found:
            entry["resolved"] = {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in found.items()
            }


def with_names(method: AnyMethod, resolved: Mapping[str, Any], directory: Path) -> AnyMethod:
    """Return the method with names in place of its patterns; its settings stay those given.

    Raises :class:`ArtifactError` for a setting that names cannot stand for, or for values that the
    patterns do not give.
    """
    settings, plain = method.settings(), method.defaults()
    for name, value in resolved.items():
        if name not in method.resolves or name not in settings:
            raise ArtifactError(
                f"{directory}: {method.name}: {name[:80]!a} is not resolved to names"
            )
        if isinstance(value, dict):
            given = settings[name]
            fits = isinstance(given, dict) and all(v in given.values() for v in value.values())
        else:
            fits = value == plain[name] or (
                isinstance(value, list) and all(isinstance(text, str) for text in value)
            )
        if not fits:
            raise ArtifactError(
                f"{directory}: {method.name}: {name}: the names it was resolved to do not fit it"
            )
    stand_in = type(method).configure(settings | dict(resolved))
    object.__setattr__(stand_in, "as_given", method)
    object.__setattr__(stand_in, "recorded", dict(resolved))
    return stand_in


def check_names(resolved: Mapping[str, Any], model: nn.Module, directory: Path) -> None:
    """Refuse a name that is none of a module or parameter of the model."""
    known = {name for name, _ in model.named_modules()}
    known |= {name for name, _ in model.named_parameters()}
    for setting, value in resolved.items():
        if unknown := [name for name in value or () if name not in known]:
            raise ArtifactError(
                f"{directory}: {setting}: {unknown[0][:80]!a} is in its list of names, and not in "
                f"this {type(model).__name__} ({len(unknown)} such names)"
            )


def check_patterns(settings: Mapping[str, Any], model: nn.Module, where: Path) -> None:
    """Refuse settings with a text that, taken as a pattern, cannot be matched in a moment."""
    patterns = [text for text in dict.fromkeys(_texts(settings)) if _SPECIAL.search(text)]
    if not patterns:
        return
    if max(map(len, patterns)) > _LONGEST:
        raise ArtifactError(f"{where}: a pattern of over {_LONGEST:,} characters is refused")
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    matches = len(names) * len(patterns) * (len(_FORMS) + 3)
    asked = {
        "patterns": patterns,
        "names": names,
        "forms": _FORMS,
        "seconds": _SECONDS + _SECONDS_A_MATCH * matches,
    }
    if not _finishes(asked):
        shown = max(patterns, key=len)
        raise ArtifactError(
            f"{where}: the pattern {shown[:80]!a} takes too long to match the names of "
            f"{type(model).__name__}, or one beside it does: name the modules instead"
        )


def _finishes(asked: Mapping[str, Any]) -> bool:
    try:
        ended = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _WORKER],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=60 + asked["seconds"],
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(str(key))
            yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
