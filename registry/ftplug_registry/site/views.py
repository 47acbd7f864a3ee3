"""What the templates show of an artifact and of a comparison, as texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.artifacts.card import is_sealed
from ftplug.comparing.report import texts
from ftplug.comparing.report.colors import VERDICTS
from ftplug.comparing.report.published import Published
from ftplug.comparing.report.texts import clean, number
from ftplug_registry.site import cards, facts
from ftplug_registry.site.artifact import Artifact
from ftplug_registry.site.facts import Row
from ftplug_registry.site.found import Version
from ftplug_registry.site.measures import measures
from ftplug_registry.site.pictures import differences

if TYPE_CHECKING:
    from markupsafe import Markup

_MOST_VERSIONS = 200


@dataclass(frozen=True)
class View:
    """An artifact's page; ``card_is_ours`` where the card says nothing that the page does not."""

    base: str
    base_address: str | None
    method: str
    about: list[Row]
    methods: list[tuple[str, str, list[Row]]]
    provenance: list[Row]
    measures: list[tuple[str, str, str, str]]
    files: list[tuple[str, str, str]]
    versions: tuple[Version, ...]
    verification: list[str]
    card: Markup | None
    card_is_ours: bool


def view(artifact: Artifact) -> View:
    """Return what the page of an artifact shows."""
    known = bool(artifact.facts)
    measured = measures(artifact.facts)
    return View(
        base=facts.base(artifact),
        base_address=facts.base_address(artifact),
        method=facts.method(artifact),
        about=list(facts.about(artifact)) if known else [],
        methods=list(facts.methods(artifact)) if known else [],
        provenance=list(facts.provenance(artifact)) if known else [],
        measures=[
            (one.name, number(one.value), one.interval_shown, one.measured_on) for one in measured
        ],
        files=facts.files(artifact) if known else [],
        versions=artifact.versions[:_MOST_VERSIONS],
        verification=_verification(artifact),
        card=cards.as_html(artifact.card) if artifact.card.strip() else None,
        card_is_ours=is_sealed(artifact.card),
    )


def _verification(artifact: Artifact) -> list[str]:
    """Return what was found out without reading a weight, a sentence each."""
    if artifact.manifest is None:
        return ["There is no sound manifest to verify anything by."]
    said = ["The manifest is sound."]
    if artifact.consistent:
        said.append(
            "All files that it lists are there, in the sizes that it says. Their contents are "
            "verified by whoever pulls them."
        )
    signed = artifact.signature
    said.append(f"{signed.said}." if signed.said else "Nobody has signed it.")
    return [text[:1].upper() + text[1:] for text in said]


@dataclass(frozen=True)
class Candidate:
    """A row of a comparison's table."""

    number: int
    name: str
    verdict: str
    color: str
    mean: str
    difference: str
    interval: str
    p: str
    rate: str
    seeds: str
    seconds: str
    size: str


@dataclass(frozen=True)
class Comparison:
    """A comparison as a page shows it; ``key`` begins the ids that belong to it."""

    key: str
    answer: str
    metric: str
    measured_on: str
    picture: Markup | None
    candidates: list[Candidate]
    notes: list[str]


def comparison(key: str, published: Published) -> Comparison:
    """Return what a page shows of a comparison."""
    return Comparison(
        key=key,
        answer=clean(published.answer, 600),
        metric=clean(published.metric, 60) or "mean",
        measured_on=clean(published.measured_on),
        picture=differences(key, published),
        candidates=[
            Candidate(
                number=at,
                name=clean(one.candidate, texts.NAME),
                verdict=texts.WORDS[one.verdict],
                color=VERDICTS[one.verdict],
                mean=number(one.mean),
                difference=texts.signed(one.difference),
                interval=texts.interval(one.interval),
                p=texts.p_value(one.p),
                rate=texts.rate(one.lr),
                seeds=str(one.seeds or texts.UNKNOWN),
                seconds=texts.seconds(one.seconds),
                size=texts.size(one.artifact),
            )
            for at, one in enumerate(published.candidates, start=1)
        ],
        notes=[clean(note) for note in published.notes],
    )
