"""The tables of a card, cell by cell, from a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftplug import discovery
from ftplug.artifacts.effects.entry import in_words
from ftplug.artifacts.methods import writer
from ftplug.errors import PluginError
from ftplug.method import settings_to_show
from ftplug_registry.card.markdown import code, is_number, line, link, number, plain, table
from ftplug_registry.card.metadata import base_id, is_hub_id, metric_name, section, weights

Row = tuple[str, str]

HUB = "https://huggingface.co"
_LABELS = 20  # that a card lists
_OTHER_DATA = "metrics_on_other_data"
_COMPARED = "comparison"
_ADOPTED = "adopted"
_ELSEWHERE = {"data", "metrics", "baselines", "history", "hyperparameters", "also"} | {
    _ADOPTED,
    _OTHER_DATA,
    _COMPARED,
}


def facts(manifest: Mapping[str, Any]) -> Iterator[Row]:
    """Yield what the artifact is: base, method, settings, size, labels."""
    base, model = manifest["base"], manifest["model"]
    revision = base.get("revision")
    if name := base_id(manifest):
        address = f"{HUB}/{name}" + (f"/tree/{revision}" if revision else "")
        yield "Base model", link(code(name), address)
    if revision:
        yield "Base revision", code(revision)
    if not base.get("id") and (digest := weights(manifest)):
        yield "Base weights", code(digest)
    if base.get("license"):
        yield "Base licence", plain(base["license"])
    yield "Model class", code(model.get("class"))
    if labels := list((model.get("labels") or {}).values()):
        more = f" and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
        yield "Labels", ", ".join(code(label) for label in labels[:_LABELS]) + more
    for method in manifest["methods"]:
        yield "Method", _method(method)
        if settings := _settings(method):
            yield f"Settings of {plain(method['name'])}", ", ".join(settings)
    for method in _also(manifest["training"]):
        yield "Trained beside", ", ".join([code(method["name"]), *_settings(method)])
    yield "Trained parameters", share(manifest["parameters"])
    if not manifest["train_head"]:
        yield "Head", "not trained"
    if effect := in_words(manifest.get("effect")):
        yield "Effect", plain(effect)


def results(training: Mapping[str, Any]) -> str:
    """Return the table of metrics beside what they compare with, or an empty string."""
    metrics, baselines = section(training, "metrics"), section(training, "baselines")
    columns = {n: b for n, b in baselines.items() if isinstance(b, Mapping) and b.keys() & metrics}
    header = ["Metric", "This model", *(_capital(plain(name)) for name in columns)]
    losses_last = sorted(metrics.items(), key=lambda item: item[0].endswith("loss"))
    rows = [
        [_metric(key), number(value), *(number(column.get(key, "")) for column in columns.values())]
        for key, value in losses_last
    ]
    return table(header, rows) if rows else ""


def results_elsewhere(training: Mapping[str, Any]) -> str:
    """Return the table of what was measured on other data than the validation set, or nothing."""
    measured = training.get(_OTHER_DATA)
    rows = []
    for one in measured if isinstance(measured, list) else ():
        if not isinstance(one, Mapping):
            continue
        data = section(one, "data")
        name = _dataset(data["dataset"], data.get("revision")) if data.get("dataset") else ""
        split = f"split {code(data['split'])}" if data.get("split") else ""
        size = f"{number(data['rows'])} rows" if "rows" in data else ""
        said = ", ".join(text for text in (name, split, size) if text) or "other data"
        for key, value in section(one, "metrics").items():
            rows.append([plain(key.replace("_", " ")), number(value), said])
    return table(["Metric", "This model", "Measured on"], rows) if rows else ""


def training(manifest: Mapping[str, Any]) -> Iterator[Row]:
    """Yield how it was trained: data, hyperparameters, time, hardware, versions."""
    run = manifest["training"]
    yield from _adoption(section(run, _ADOPTED))
    yield from _data(manifest)
    for name, value in section(run, "hyperparameters").items():
        yield code(name), _cell(value)
    for name, value in run.items():
        if name == "seconds" and is_number(value):
            yield "Training time", _duration(value)
        elif name == "peak_memory_bytes" and is_number(value):
            yield "Peak memory", f"{value / 2**20:,.0f} MiB"
        elif name not in _ELSEWHERE:
            yield _capital(plain(name).replace("_", " ")), _cell(value)
    if run:
        versions = (f"{plain(k)} {plain(v)}" for k, v in manifest["versions"].items())
        yield "Adopted with" if run.get(_ADOPTED) else "Versions", ", ".join(versions)


def _adoption(known: Mapping[str, Any]) -> Iterator[Row]:
    """Yield from where an adapter was adopted, and how its answers compare with peft's."""
    if known:
        yield "Trained", f"elsewhere, as {plain(known.get('was') or 'an adapter')}"
    if revision := known.get("revision"):
        yield "Commit it was read at", code(revision)
    if is_number(difference := known.get("largest_difference")):
        asked = number(known.get("inputs") or 0)
        yield "Compared", f"peft's answers to {asked} inputs differ by {number(difference)} at most"
    for name, digest in section(known, "sha256").items():
        if str(name).endswith((".safetensors", ".bin")):
            yield f"sha256 of {plain(name)}", code(digest)


def share(parameters: Mapping[str, int]) -> str:
    """Return how many parameters were trained, and of how many."""
    trained, total = parameters["trained"], parameters["total"]
    if trained == total:
        return f"all {total:,} parameters"
    part = trained / max(total, 1)
    percent = f"{part:.2%}" if part >= 1e-4 else f"{100 * part:.1g}%"
    return f"{trained:,} of {total:,} parameters ({percent})"


def data_name(manifest: Mapping[str, Any]) -> str:
    """Return the training data's name as markdown, or an empty string."""
    data, author = section(manifest["training"], "data"), manifest["author"]
    name = data.get("dataset")
    if name is None or (not data.get("revision") and author.get("dataset_names")):
        name = next(iter(author.get("dataset_names") or author.get("datasets") or [name]))
    return _dataset(name, data.get("revision")) if name else ""


def _also(run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield what ran beside the methods and is not needed to load the artifact."""
    also = run.get("also")
    for entry in also if isinstance(also, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("name"), str):
            yield {"name": entry["name"], "settings": section(entry, "settings")}


def _data(manifest: Mapping[str, Any]) -> Iterator[Row]:
    data = section(manifest["training"], "data")
    if name := data_name(manifest):
        yield "Data", name
    if "eval_dataset" in data:
        yield "Validation data", _dataset(data["eval_dataset"], data.get("eval_revision"))
    for prefix, title in (("", "Data"), ("eval_", "Validation data")):
        for fact in ("config", "revision", "version"):
            if value := data.get(f"{prefix}{fact}"):
                yield f"{title} {fact}", code(value)
    for part, title in (("train", "Training"), ("eval", "Validation"), ("test", "Test")):
        rows, split = data.get(f"{part}_rows"), data.get(f"{part}_split")
        said = [f"{number(rows)} rows" if rows else "", f"split {code(split)}" if split else ""]
        if any(said):
            yield f"{title} set", " of ".join(text for text in said if text)


def _dataset(name: Any, revision: Any) -> str:
    if not (revision and is_hub_id(name)):
        return plain(name)
    return link(code(name), f"{HUB}/datasets/{name}/tree/{revision}")


def _settings(method: Mapping[str, Any]) -> list[str]:
    shown = settings_to_show(method["settings"])
    return [code(f"{name}={_value(value)}") for name, value in shown.items()]


def _method(method: Mapping[str, Any]) -> str:
    """Return name, paper and plugin of a method."""
    try:
        paper = discovery.entry(method["name"]).load().paper
    except PluginError:
        paper = ""
    where = writer(method)
    papers = f" ({link('paper', paper)})" if paper.startswith("https://") else ""
    return f"{code(method['name'])}{papers}{f', plugin {plain(where)}' if where else ''}"


def _metric(key: str) -> str:
    name, split = metric_name(key)
    return f"{plain(name.replace('_', ' '))} ({split})"


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(k)}: {_cell(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return number(value)


def _value(value: Any) -> str:
    return "[" + ", ".join(map(line, value)) + "]" if isinstance(value, list) else line(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    return f"{hours} h {minutes - 60 * hours} min" if hours else f"{minutes} min"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
