"""What differs between two manifests, fact by fact: settings, metrics, base, versions, files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ftplug.method import settings_to_show
from ftplug_registry.card.markdown import is_number
from ftplug_registry.card.metadata import section, weights

SETTINGS_AND_METRICS = ("method", "setting", "base", "metric")  # what a history tells

Facts = dict[tuple[str, str], Any]


@dataclass(frozen=True)
class Change:
    """One fact that differs; None where one of the two does not have it."""

    section: str
    name: str
    before: Any
    after: Any

    def said(self) -> str:
        """Return it in words: ``lora.r 8 -> 16``, ``accuracy 0.81 -> 0.84 (+0.03)``."""
        return f"{self.name} {worded(self.before)} -> {worded(self.after)}{self.difference()}"

    def difference(self) -> str:
        """Return what a metric gained or lost, or nothing."""
        if self.section != "metric" or not (is_number(self.before) and is_number(self.after)):
            return ""
        try:
            return f" ({self.after - self.before:+.4g})"
        except OverflowError:  # a whole number of hundreds of digits
            return ""


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[Change]:
    """Return what differs between two manifests, as JSON values, in the order of a manifest."""
    old, new = facts(before), facts(after)
    return [
        Change(*key, old.get(key), new.get(key))
        for key in sorted({**old, **new}, key=lambda key: _ORDER.index(key[0]))
        if old.get(key) != new.get(key)
    ]


def facts(manifest: Mapping[str, Any] | None) -> Facts:
    """Return what a manifest says as one fact after another, by section and name."""
    if manifest is None:
        return {}
    return {(kind, name): value for kind, name, value in _facts(manifest) if value is not None}


def worded(value: Any) -> str:
    """Return a value as a table shows it."""
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_ORDER = (
    *SETTINGS_AND_METRICS, "data", "training", "parameters", "model", "library", "author", "file"
)  # fmt: skip

_Fact = tuple[str, str, Any]


def _facts(manifest: Mapping[str, Any]) -> Iterator[_Fact]:
    for method in manifest["methods"]:
        name = method["name"]
        yield "method", name, f"{method.get('distribution')} {method.get('version')}"
        for setting, value in settings_to_show(method["settings"]).items():
            yield "setting", f"{name}.{setting}", value
    base = manifest["base"]
    for name in ("id", "revision", "license"):
        yield "base", name, base.get(name)
    yield "base", "weights", weights(manifest)
    yield from _of_training(manifest["training"])
    yield from (("parameters", name, n) for name, n in manifest["parameters"].items())
    for name in ("class", "task", "labels", "pipeline"):
        yield "model", name, manifest["model"].get(name)
    yield from (("library", name, version) for name, version in manifest["versions"].items())
    yield from (("author", name, said) for name, said in manifest["author"].items())
    for name, entry in manifest["files"].items():
        yield "file", name, f"{entry['size']:,} bytes, sha256 {entry['sha256'][:12]}"


def _of_training(training: Mapping[str, Any]) -> Iterator[_Fact]:
    """Yield metrics, data and hyperparameters; lists (the curve) are left out."""
    yield from (("metric", name, value) for name, value in section(training, "metrics").items())
    elsewhere = training.get("metrics_on_other_data")
    for one in elsewhere if isinstance(elsewhere, list) else ():
        data = section(one, "data") if isinstance(one, Mapping) else {}
        where = data.get("dataset") or data.get("split") or "other data"
        for name, value in section(one, "metrics").items() if data else ():
            yield "metric", f"{name} on {where}", value
    yield from (("data", name, value) for name, value in _plain(section(training, "data")))
    yield from (("training", n, v) for n, v in _plain(section(training, "hyperparameters")))
    yield from (("training", name, value) for name, value in _plain(training))


def _plain(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((name, v) for name, v in values.items() if not isinstance(v, Mapping | list | tuple))
