"""Quality against size: the artifacts of one base that were measured on the same data alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.comparing.report.texts import number, size
from ftplug_registry.site import facts
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.artifact import Artifact
from ftplug_registry.site.measures import OTHER, VALIDATION, Measure, measures
from ftplug_registry.site.pictures import scatter

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST = 40  # pictures on the page
_POINTS = 200  # of one picture, the smallest artifacts first


@dataclass(frozen=True)
class Member:
    """An artifact of a picture, by its number there."""

    number: int
    name: str
    address: str | None
    method: str
    value: str
    interval: str
    size: str


@dataclass(frozen=True)
class Pictured:
    """A picture, and the same numbers as a table."""

    title: str
    picture: Markup | None
    members: list[Member]
    left_out: int


_Key = tuple[str, str, str, str]  # base, data, split, metric


def pictured(artifacts: Iterable[Artifact], addresses: Addresses) -> list[Pictured]:
    """Return a picture of each group of two artifacts or more, the largest first.

    Metrics of different data say nothing beside each other, nor does a validation set without a
    name: they are not drawn.
    """
    grouped: defaultdict[_Key, list[tuple[Artifact, Measure]]] = defaultdict(list)
    for artifact in sorted(artifacts, key=lambda one: one.name):
        for key, measure in _measured(artifact).items():
            grouped[key].append((artifact, measure))
    large = [(key, members) for key, members in grouped.items() if len(members) > 1]
    large.sort(key=lambda group: (-len(group[1]), group[0]))
    return [_pictured(f"g{at}", *group, addresses) for at, group in enumerate(large[:_MOST])]


def _measured(artifact: Artifact) -> dict[_Key, Measure]:
    """Return what can stand beside the metrics of others; a loss only where there is nothing else.

    Of two values of one metric on the same data the first counts.
    """
    base = facts.base(artifact)
    named = [one for one in measures(artifact.facts) if one.data not in (VALIDATION, OTHER)]
    better = [one for one in named if not one.is_loss]
    found: dict[_Key, Measure] = {}
    for one in better or named:
        if base:
            found.setdefault((base, one.data, one.split, one.name), one)
    return found


def _pictured(
    name: str, key: _Key, found: list[tuple[Artifact, Measure]], addresses: Addresses
) -> Pictured:
    base, data, split, metric = key
    found = sorted(found, key=lambda one: (one[0].bytes or 0, one[0].name))
    kept = found[:_POINTS]
    on = f"{data}, split {split}" if split else data
    title = f"{base}: {metric} on {on}"
    said = f"A point for each of {len(kept)} artifacts, by its number in the table below."
    points = [(float(artifact.bytes or 0), measure.value) for artifact, measure in kept]
    return Pictured(
        title,
        scatter(name, f"{title}, against size", said, points),
        [_member(at, *one, addresses) for at, one in enumerate(kept, start=1)],
        len(found) - len(kept),
    )


def _member(at: int, artifact: Artifact, measure: Measure, addresses: Addresses) -> Member:
    return Member(
        at,
        artifact.name,
        addresses.page(artifact.name),
        facts.method(artifact),
        number(measure.value),
        measure.interval_shown,
        size(artifact.bytes),
    )
