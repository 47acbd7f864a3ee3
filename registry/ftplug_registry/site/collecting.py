"""The artifacts of a zoo, wherever they are: namespaces and repositories of a Hub, folders."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftplug.errors import RegistryError
from ftplug_registry.hub import Hub
from ftplug_registry.site.artifact import Artifact, read
from ftplug_registry.site.folders import folders_in, found_at
from ftplug_registry.site.found import Found
from ftplug_registry.site.published import found_on, repositories
from ftplug_registry.site.signed import Checking

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

_PLACE = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)  # a namespace, or a repository


@dataclass(frozen=True)
class Zoo:
    """Artifacts with names of their own.

    ``private`` are the private and gated repositories that were left out.
    """

    artifacts: tuple[Artifact, ...]
    private: tuple[str, ...] = ()


def collect(
    places: Sequence[str],
    *,
    hub: Hub | None = None,
    private: bool = False,
    trusted: Path | None = None,
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Zoo:
    """Return the artifacts of places, each an existing folder, a namespace or a repository.

    A repository that is private or gated is left out unless ``private`` says otherwise: pages are
    made for others to see. What two places hold is shown once. ``tell(done, of)`` is called for
    each artifact. Raises :class:`RegistryError` where a place is not there or has no artifact, and
    where ``trusted`` names nobody; an artifact that cannot be read has remarks.
    """
    hub, checking = hub or Hub(), Checking(trusted)
    checking.require_keys()
    hidden: dict[str, None] = {}
    known: set[str] = set()  # folders and repositories that are there already
    sources: list[tuple[int, Iterator[Found]]] = []
    for place in places:
        if place and os.path.isdir(place):
            root = Path(place)
            named = [one for one in folders_in(root) if _is_new(os.path.realpath(one[1]), known)]
            sources.append((len(named), _in_folder(named, root, checking)))
        else:
            _check_place(place)
            infos = [one for one in repositories(hub, place) if _is_new(one.id, known)]
            shown = [info for info in infos if private or _is_public(info)]
            hidden |= dict.fromkeys(info.id for info in infos if info not in shown)
            sources.append((len(shown), found_on(hub, shown, checking)))
    total = sum(count for count, _ in sources)
    artifacts: list[Artifact] = []
    for _, founds in sources:
        for found in founds:
            artifacts.append(read(found))
            tell(len(artifacts), total)
    if not artifacts:
        some = ", ".join(list(hidden)[:3])
        raise RegistryError(
            f"site: all of it is private or gated ({some}): --private shows it to others"
        )
    return Zoo(tuple(_with_own_names(artifacts)), tuple(hidden))


def _is_new(name: str, known: set[str]) -> bool:
    """Note a folder or a repository; say whether it was not known before."""
    is_new = name not in known
    known.add(name)
    return is_new


def _is_public(info: ModelInfo) -> bool:
    """Whether everybody may read a repository; one of which the Hub does not say so is not."""
    return info.private is False and not info.gated


def _in_folder(
    named: Sequence[tuple[str, Path]], root: Path, checking: Checking
) -> Iterator[Found]:
    for name, folder in named:
        yield found_at(name, folder, root, checking)


def _check_place(place: str) -> None:
    if not _PLACE.fullmatch(place):
        raise RegistryError(
            f"site: {place!r} is neither a folder that is there nor a namespace or repository of "
            "a Hub: ORG, ORG/NAME, or the path of a folder"
        )


def _with_own_names(artifacts: Sequence[Artifact]) -> Iterator[Artifact]:
    """Yield artifacts; those of a name that was there before get a number."""
    taken: set[str] = set()
    for artifact in artifacts:
        name, number = artifact.name, 1
        while name in taken:
            number += 1
            name = f"{artifact.name} ({number})"
        taken.add(name)
        yield artifact if number == 1 else dataclasses.replace(artifact, name=name)
