"""The rows of the list of artifacts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ftplug.comparing.report.texts import clean, number, size
from ftplug_registry.site import facts
from ftplug_registry.site.addresses import Addresses
from ftplug_registry.site.artifact import Artifact
from ftplug_registry.site.measures import measures

_NAME = 60  # characters: two hundred rows are to stay below 300 kB
_REMARK = 120
_SIGNED = {
    "unsigned": ("no", 0),
    "broken": ("broken", 1),
    "present": ("yes, not checked", 2),
    "unknown": ("by an unknown key", 3),
    "checked": ("yes", 4),
}


@dataclass(frozen=True)
class Column:
    """A column: its head, whether it is sorted as numbers, and how the list is sorted by it."""

    head: str
    is_number: bool = False
    order: str = ""


COLUMNS = (
    Column("Artifact"),
    Column("Base"),
    Column("Method"),
    Column("Task"),
    Column("Metric", True),
    Column("Size", True),
    Column("Date", order="descending"),
    Column("Signed", True),
    Column("Effect", True),
)


@dataclass(frozen=True)
class Cell:
    """A cell's text, and what it is sorted by if that is not the text."""

    label: str
    text: str
    key: str = ""
    is_number: bool = False


@dataclass(frozen=True)
class Row:
    """An artifact in the list; ``notice`` and ``remark`` stand below its name."""

    name: str
    address: str | None
    cells: tuple[Cell, ...]
    notice: str
    remark: str


def newest_first(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Return artifacts by date, of one date by name."""
    by_name = sorted(artifacts, key=lambda one: one.name)
    return sorted(by_name, key=lambda one: one.date or "", reverse=True)


def row(artifact: Artifact, addresses: Addresses) -> Row:
    """Return what the list says of an artifact."""
    measured = next(iter(measures(artifact.facts)), None)
    metric = f"{clean(measured.name, 30)} {number(measured.value)}" if measured else ""
    signed, rank = _SIGNED[artifact.signature.state]
    changed = facts.effect(artifact)
    values = (
        (clean(facts.base(artifact), _NAME), ""),
        (clean(facts.method(artifact), _NAME), ""),
        (clean(facts.task(artifact), 40), ""),
        (metric, f"{measured.value:.9g}" if measured else ""),
        (size(artifact.bytes) if artifact.bytes is not None else "", f"{artifact.bytes or ''}"),
        ((artifact.date or "")[:10], ""),
        (signed, str(rank)),
        (changed.text, "" if changed.key is None else f"{changed.key:.6g}"),
    )
    cells = tuple(
        Cell(column.head, text, key, column.is_number)
        for column, (text, key) in zip(COLUMNS[1:], values, strict=True)
    )
    said = artifact.notice
    return Row(
        artifact.name,
        addresses.page(artifact.name),
        cells,
        clean(f"{said.kind}: {said.why}", _REMARK) if said else "",
        clean(artifact.remarks[0], _REMARK) if artifact.remarks else "",
    )
