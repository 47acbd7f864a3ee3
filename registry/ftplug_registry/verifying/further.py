"""What ``ftplug verify`` checks where it is asked to: effect, server, metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Further:
    """One such check: its name, figures and a line. ``require`` raises unless it is as claimed."""

    name: str
    figures: dict[str, Any]
    line: str
    require: Callable[[], None]


def further(
    artifact: str,
    folder: Path,
    base: str | None,
    *,
    effect: bool,
    server: tuple[str | None, str | None],
    evaluation: tuple[bool, Path | None],
) -> Iterator[Further]:
    """Yield the checks that are asked for; ``server`` is its address and the model's name there.

    ``evaluation`` is whether to measure again, and the data's file. Raises :class:`FtplugError`
    where a check cannot be made.
    """
    if effect:
        from ftplug_registry.verifying import effect as by_probe

        found = by_probe.replayed(folder, base)
        require = partial(by_probe.require_trained, artifact, found)
        yield Further("effect", found.as_json(), found.line(), require)
    url, model = server
    if url is not None and model is not None:
        from ftplug_registry.verifying import served

        asked = served.served(folder, url, model)
        require = partial(served.require_trained, asked, artifact)
        yield Further("served", asked.as_json(), asked.line, require)
    again, data = evaluation
    if again:
        from ftplug_registry.verifying import rerun

        measured = rerun.rerun(folder, base, file=data)
        require = partial(rerun.require_met, measured, artifact)
        yield Further("rerun", measured.as_json(), measured.line, require)
