"""Measuring an artifact's metrics again, on this machine: ``ftplug verify --rerun``.

No code of a stranger is run: the manifest names data and columns; reading, cutting, asking and
counting are ours.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ftplug.artifacts.manifest import Manifest, read_manifest
from ftplug.demo import minilm
from ftplug.errors import ArtifactError
from ftplug_registry.card.metadata import section
from ftplug_registry.verifying.evaluating import Answered, answered, figures
from ftplug_registry.verifying.evaluation_data import Rows, rows_of


@dataclass(frozen=True)
class Measured:
    """One metric: as the manifest has it, as it is here, and the standard error of the latter."""

    claimed: float
    measured: float
    error: float

    @property
    def is_met(self) -> bool:
        """Whether the claim lies within the standard error."""
        return abs(self.claimed - self.measured) <= self.error + 1e-9


@dataclass(frozen=True)
class Rerun:
    """What was measured again, by the names that the manifest has for the metrics."""

    data: str
    rows: int
    metrics: Mapping[str, Measured]

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @property
    def line(self) -> str:
        """What was found, for people."""
        found = ", ".join(
            f"{name} {one.measured:.4f} (claimed {one.claimed:.4f}, standard error {one.error:.4f})"
            for name, one in self.metrics.items()
        )
        return f"measured again on {self.rows} rows of {self.data}: {found}"


def rerun(
    directory: Path,
    base: str | os.PathLike[str] | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
) -> Rerun:
    """Load an artifact on its base, and evaluate it on the data that its manifest names.

    ``base`` is where the base lies, if not under its id; ``file`` the local file of an evaluation
    that was made on one. Raises :class:`ArtifactError` naming the fact that is missing where the
    evaluation cannot be made again.
    """
    manifest = read_manifest(directory)
    evaluation = section(manifest.training, "evaluation")
    claims = _claims(manifest, evaluation, directory)
    columns, most = _preprocessing(manifest, evaluation, directory)
    rows = rows_of(section(evaluation, "data"), columns, directory, file)
    _require_as_many(rows, evaluation, directory)
    where = base or minilm.installed(manifest.base["id"]) or manifest.base["id"]
    answers = answered(directory, where, rows, most)
    return Rerun(rows.name, len(rows.labels), _measured(claims, answers))


def require_met(found: Rerun, artifact: str) -> None:
    """Raise :class:`ArtifactError` where a claimed metric is beyond the standard error."""
    for name, one in found.metrics.items():
        if not one.is_met:
            raise ArtifactError(
                f"{artifact}: {name} is {one.measured:.4f} where it is measured again, not the "
                f"{one.claimed:.4f} that it claims (standard error {one.error:.4f}, {found.rows} "
                f"rows of {found.data})"
            )


def missing(directory: Path, what: str) -> ArtifactError:
    """Return the error of an evaluation that cannot be made again."""
    return ArtifactError(f"{directory}: cannot be measured again: the manifest lacks {what}")


def _claims(
    manifest: Manifest, evaluation: Mapping[str, Any], directory: Path
) -> dict[str, tuple[str, float]]:
    """Return metrics by name: which of ours it is, and its claimed value."""
    if not evaluation:
        raise missing(directory, "how it was evaluated (data, columns and metric)")
    claimed, claims = section(manifest.training, "metrics"), {}
    for name, ours in section(evaluation, "metrics").items():
        value = claimed.get(name)
        if ours in figures and isinstance(value, int | float) and abs(value) <= sys.float_info.max:
            claims[str(name)] = (str(ours), float(value))
    if not claims:
        raise missing(directory, f"a metric that can be computed here ({', '.join(figures)})")
    return claims


def _preprocessing(
    manifest: Manifest, evaluation: Mapping[str, Any], directory: Path
) -> tuple[tuple[list[str], str], int | None]:
    """Return the columns (texts, label), and after how many tokens a text is cut."""
    if not str(manifest.model["class"]).endswith("ForSequenceClassification"):
        raise ArtifactError(
            f"{directory}: cannot be measured again: {manifest.model['class']} is no classifier of "
            "texts, for which alone that is known"
        )
    facts = section(evaluation, "preprocessing")
    texts, label, most = facts.get("text"), facts.get("label"), facts.get("max_length")
    if not isinstance(texts, list) or not 0 < len(texts) <= 2 or not isinstance(label, str):
        raise missing(directory, "the preprocessing (which columns are text and label)")
    if not all(isinstance(name, str) for name in texts):
        raise missing(directory, "the names of the text columns")
    if most is not None and not (isinstance(most, int) and 0 < most <= 2**20):
        raise missing(directory, "after how many tokens a text is cut")
    return (texts, label), most


def _require_as_many(rows: Rows, evaluation: Mapping[str, Any], directory: Path) -> None:
    if len(rows.labels) != evaluation.get("rows"):
        raise ArtifactError(
            f"{directory}: cannot be measured again: {rows.name} has {len(rows.labels)} rows, it "
            f"was evaluated on {evaluation.get('rows')!s:.20}"
        )


def _measured(claims: Mapping[str, tuple[str, float]], answers: Answered) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for name, (ours, claimed) in claims.items():
        value, error = figures[ours](answers)
        found[name] = Measured(claimed, value, error)
    return found
