"""What a page says of an artifact, as labels and texts: no markup, whoever wrote the manifest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from typing_extensions import TypeIs

from ftplug.artifacts.effects.entry import in_words
from ftplug.artifacts.methods import writer
from ftplug.comparing.report.texts import clean, seconds, size
from ftplug.method import settings_to_show
from ftplug_registry.card.markdown import is_number
from ftplug_registry.card.metadata import base_id, pipeline_tag, section, weights
from ftplug_registry.card.rows import share
from ftplug_registry.site.artifact import Artifact

Row = tuple[str, str]
_LABELS = 20  # that a page lists
_MOST = 100  # settings, files or hyperparameters
_NAME = 80  # characters
_VALUE = 300
_LARGEST = 1e15
# What has a place of its own on a page.
_ELSEWHERE = frozenset({"data", "metrics", "metrics_on_other_data", "evaluation", "baselines"}) | {
    *("history", "hyperparameters", "also", "comparison", "seconds", "peak_memory_bytes")
}


class Short(NamedTuple):
    """A text for a cell, and what its column is sorted by."""

    text: str
    key: float | None = None


def base(artifact: Artifact) -> str:
    """Return the base's id, or what a base without one is known by."""
    if not artifact.facts:
        return ""
    if name := base_id(artifact.facts):
        return clean(name, _NAME)
    digest, model = weights(artifact.facts), artifact.facts["model"]
    kind = clean(model["config"].get("model_type") or model["class"] or "a model", _NAME)
    return f"{kind} {clean(digest, 12)}" if digest else kind


def base_address(artifact: Artifact) -> str | None:
    """Return the base's id where it is one of the Hub's."""
    return base_id(artifact.facts) if artifact.facts else None


def method(artifact: Artifact) -> str:
    """Return the names of the methods."""
    return " + ".join(clean(one["name"], _NAME) for one in artifact.facts.get("methods", ()))


def task(artifact: Artifact) -> str:
    """Return the pipeline tag, or the task that the model's class is for."""
    if not artifact.facts:
        return ""
    return clean(pipeline_tag(artifact.facts) or artifact.facts["model"]["task"] or "", _NAME)


def effect(artifact: Artifact) -> Short:
    """Return what the methods change in the answers, in few characters."""
    entry = artifact.facts.get("effect") or {}
    if entry.get("nil"):
        return Short("none", 0.0)
    for name, form in (("kl", "KL {:.2g}"), ("changed", "{:.0%} changed"), ("distance", "{:.1%}")):
        value = entry.get(name)
        if _is_sane(value):
            return Short(form.format(value), float(value))
    return Short("not measured" if artifact.facts else "")


def about(artifact: Artifact) -> Iterator[Row]:
    """Yield what the artifact is: base, model, size, effect."""
    facts = artifact.facts
    entry, model = facts["base"], facts["model"]
    yield from _given("Base revision", entry.get("revision"))
    yield from _given("Base weights", None if entry.get("id") else weights(facts))
    yield from _given("Base licence", entry.get("license"))
    yield from _given("Model class", model.get("class"))
    yield from _given("Task", task(artifact))
    if labels := list((model.get("labels") or {}).values()):
        more = f" and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
        yield "Labels", ", ".join(clean(label, _NAME) for label in labels[:_LABELS]) + more
    yield "Trained", share(facts["parameters"])
    yield "Head", "trained" if facts["train_head"] else "not trained"
    yield from _given("Effect", in_words(facts.get("effect")))
    yield "Files", f"{len(facts['files'])}, {size(artifact.bytes)}"
    yield from _given("Licence", facts["author"].get("license"))


def methods(artifact: Artifact) -> Iterator[tuple[str, str, list[Row]]]:
    """Yield each method's name, the distribution that it came from, and its settings."""
    for one in artifact.facts["methods"]:
        yield clean(one["name"], _NAME), clean(writer(one), _NAME), list(_settings(one))
    also = artifact.facts["training"].get("also")
    for one in also if isinstance(also, list) else ():
        if isinstance(one, Mapping):
            name = f"{clean(one.get('name'), _NAME)} (beside)"
            yield name, "", list(_settings({"settings": section(one, "settings")}))


def provenance(artifact: Artifact) -> Iterator[Row]:
    """Yield how it was trained: data, hyperparameters, time, hardware, versions."""
    facts = artifact.facts
    run = facts["training"]
    author = facts["author"]
    yield from _given("Data set", ", ".join(author.get("dataset_names") or ()))
    for name, value in list(section(run, "data").items())[:_MOST]:
        yield from _given(f"Data: {_label(name)}", _value(value))
    for name, value in list(section(run, "hyperparameters").items())[:_MOST]:
        yield clean(name, _NAME), _value(value)
    if _is_sane(taken := run.get("seconds")):
        yield "Training time", seconds(taken)
    if _is_sane(memory := run.get("peak_memory_bytes")):
        yield "Peak memory", size(memory)
    for name, value in list(run.items())[:_MOST]:
        if name not in _ELSEWHERE:
            yield from _given(_label(name), _value(value))
    versions = (f"{name} {version}" for name, version in list(facts["versions"].items())[:_MOST])
    yield from _given("Versions", ", ".join(versions))


def files(artifact: Artifact) -> list[tuple[str, str, str]]:
    """Return name, size and sha256 of the manifest's files."""
    listed = list(artifact.facts["files"].items())[:_MOST]
    return [(clean(name, 200), size(one["size"]), clean(one["sha256"], 64)) for name, one in listed]


def _settings(entry: Mapping[str, Any]) -> Iterator[Row]:
    for name, value in list(settings_to_show(entry["settings"]).items())[:_MOST]:
        yield clean(name, _NAME), _value(value)


def _given(label: str, value: Any) -> Iterator[Row]:
    if value not in (None, "", [], {}):
        yield label, clean(value, _VALUE)


def _label(name: str) -> str:
    text = clean(name, _NAME).replace("_", " ")
    return text[:1].upper() + text[1:]


def _value(value: Any) -> str:
    """Return a value as one reads it: a number, a text, or JSON."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if is_number(value):
        return f"{value:g}" if isinstance(value, float) else _whole(value)
    return clean(value if isinstance(value, str) else json.dumps(value)[:5000], _VALUE)


def _is_sane(value: Any) -> TypeIs[int | float]:
    """Whether a value is a number that can be written down; NaN is none."""
    return is_number(value) and abs(value) < _LARGEST


def _whole(number: int) -> str:
    """Return a whole number; one of thousands of digits by its size."""
    return f"{number:,}" if _is_sane(number) else f"about 2^{number.bit_length()}"
