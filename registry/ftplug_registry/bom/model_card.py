"""CycloneDX's ``modelCard`` of a manifest, which ``cyclonedx-python-lib`` cannot express."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ftplug.artifacts.manifest import Manifest
from ftplug.method import settings_to_show
from ftplug_registry.card.metadata import metric_name, section

DATA = "data:"  # the references of data sets begin with it
_LONGEST = 300  # characters of a value
_METHODS_OF_TASKS = {  # how the tasks learn that have but one way
    "text-generation": "self-supervised",
    "fill-mask": "self-supervised",
}


def model_card(manifest: Manifest) -> dict[str, Any]:
    """Return parameters, measured figures and the method's settings as CycloneDX 1.6 has them."""
    return {
        "modelParameters": _parameters(manifest),
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(manifest))},
        "considerations": _considerations(manifest),
        "properties": list(_properties(manifest)),
    }


def text(value: Any) -> str:
    """Return a value as one line of bounded length; nothing for None."""
    if value is None:
        return ""
    plain = value if isinstance(value, str) else json.dumps(value, default=str)
    return " ".join(plain.split())[:_LONGEST]


def _parameters(manifest: Manifest) -> dict[str, Any]:
    task, config = manifest.model["task"], manifest.model["config"]
    data = section(manifest.training, "data")
    learning = _METHODS_OF_TASKS.get(task or "")
    if task and task.endswith("classification"):
        learning = "supervised"
    found = {
        "approach": {"type": learning} if learning else None,
        "task": text(task),
        "architectureFamily": text(config.get("model_type")),
        "modelArchitecture": text(manifest.model["class"]),
        "datasets": [
            {"ref": DATA + part} for part in ("", "eval_") if text(data.get(f"{part}dataset"))
        ],
    }
    return {name: value for name, value in found.items() if value}


def _metrics(manifest: Manifest) -> Iterator[dict[str, str]]:
    for key, value in section(manifest.training, "metrics").items():
        name, split = metric_name(str(key))
        yield {"type": text(name), "value": text(value), "slice": text(split)}
    elsewhere = manifest.training.get("metrics_on_other_data")
    for one in elsewhere if isinstance(elsewhere, list) else ():
        if isinstance(one, Mapping):
            data = section(one, "data")
            where = text(data.get("dataset")) or "other data"
            for name, value in section(one, "metrics").items():
                yield {"type": text(name), "value": text(value), "slice": where}


def _considerations(manifest: Manifest) -> dict[str, Any]:
    notes = manifest.author.get("notes")
    return {"useCases": [notes]} if notes else {}


def _properties(manifest: Manifest) -> Iterator[dict[str, str]]:
    for method in manifest.methods:
        yield _property("method", method["name"])
        for name, value in settings_to_show(method["settings"]).items():
            yield _property(f"method:{method['name']}:{name}", value)
    for name, value in manifest.parameters.items():
        yield _property(f"parameters:{name}", value)
    for part in ("hyperparameters", "effect"):
        facts = getattr(manifest, part, None) or section(manifest.training, part)
        for name, value in facts.items() if isinstance(facts, Mapping) else ():
            yield _property(f"{part}:{name}", value)
    for name in ("seed", "steps", "epochs"):
        if (value := manifest.training.get(name)) is not None:
            yield _property(f"training:{name}", value)


def _property(name: str, value: Any) -> dict[str, str]:
    return {"name": text(f"ftplug:{name}"), "value": text(value)}
