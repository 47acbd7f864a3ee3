"""The YAML block at the head of a README.md: read with bounds, checked, turned into tags."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ftplug.errors import one_line

MAX_BLOCK = 1 << 20  # characters
MAX_DEPTH = 32
MAX_EVENTS = 50_000  # keys, values and collections
MAX_NUMBER = 64  # characters
RELATIONS = ("adapter", "merge", "quantized", "finetune")

_END = re.compile(r"^---[ \t]*$", re.MULTILINE)
_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Of ``!!int ""``, ``!!bool x`` or a date before all: what the loader makes of odd scalars.
_MALFORMED = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)
_Metadata = dict[str, Any]


class _Loader(_SafeLoader):  # type: ignore[misc]
    """Reads numbers in linear time: base 60 (``1:30``) would be quadratic, and stays text."""


def _number(construct: str) -> Any:
    def constructed(loader: Any, node: Any) -> Any:
        text = loader.construct_scalar(node)
        if ":" in text:
            return text
        if len(text) > MAX_NUMBER:
            raise ValueError(f"a number of more than {MAX_NUMBER} characters")
        return getattr(loader, construct)(node)

    return constructed


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number(f"construct_yaml_{_kind}"))


def parse(readme: str) -> _Metadata:
    """Return a card's metadata, as JSON can hold it; empty if there is no block.

    Raises:
        ValueError: the block is no YAML mapping, is too large or too deep, or uses aliases (with
            them a few lines can stand for gigabytes). Nothing else is raised, whatever it says.
    """
    block = _block(readme)
    try:
        _check_events(block)
        loaded = yaml.load(block, Loader=_Loader)
    except _MALFORMED as error:
        reason = one_line(error)
        raise ValueError(f"the metadata is not valid YAML: {reason}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ValueError("the metadata must be a YAML mapping")
    plain = _plain(loaded)
    assert isinstance(plain, dict)
    return plain


def _block(readme: str) -> str:
    text = readme[:MAX_BLOCK].replace("\r\n", "\n").replace("\r", "\n").lstrip()
    first, _, rest = text.partition("\n")
    if first.rstrip() != "---":
        return ""
    end = _END.search(rest)
    if end:
        return rest[: end.start()]
    if len(readme) > MAX_BLOCK:
        raise ValueError(f"the metadata block has more than {MAX_BLOCK} characters")
    return ""


def _check_events(text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if number > MAX_EVENTS:
            raise ValueError(f"more than {MAX_EVENTS} keys and values")
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases are not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > 4 * MAX_NUMBER:  # of base 2, 8 or 16
        raise ValueError("a number is too large")
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)  # !!binary


def errors(readme: str) -> list[str]:
    """Return what is wrong with a card's metadata, in the Hub's manner of speaking."""
    try:
        data = parse(readme)
    except ValueError as error:
        return [str(error)]
    messages = []
    for key in ("license", "pipeline_tag", "library_name", "base_model_relation"):
        if not isinstance(data.get(key, ""), str):
            messages.append(f'"{key}" must be a string')
    for key in ("tags", "language", "datasets", "metrics", "base_model"):
        if not _is_strings(data.get(key, []), list_only=key == "tags"):
            messages.append(
                f'"{key}" must be an array of strings; put values like no or 1.0 in quotes'
            )
    for key in ("base_model", "datasets"):
        messages += [
            f'"{key}" with value "{id[:200]}" is not valid. Use a repository id'
            for id in _strings(data.get(key))
            if not _ID.fullmatch(id)
        ]
    if data.get("base_model_relation", RELATIONS[0]) not in RELATIONS:
        messages.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    return messages + _model_index_errors(data.get("model-index", []))


def _model_index_errors(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    messages = []
    for i, model in enumerate(index):
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            messages.append(f'"model-index[{i}].name" is required')
            continue
        results = model.get("results")
        if not isinstance(results, list):
            messages.append(f'"model-index[{i}].results" must be an array')
            continue
        for j, result in enumerate(results):
            messages += _result_errors(result, f"model-index[{i}].results[{j}]")
    return messages


def _result_errors(result: Any, where: str) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{where}" must be of type object']
    messages = []
    for part, fields in (("task", ("type",)), ("dataset", ("type", "name"))):
        value = result.get(part)
        for field in fields:
            if not isinstance(value, dict) or not isinstance(value.get(field), str):
                messages.append(f'"{where}.{part}.{field}" is required')
    metrics = result.get("metrics")
    if not isinstance(metrics, list):
        return [*messages, f'"{where}.metrics" must be an array']
    for k, metric in enumerate(metrics):
        messages += [
            f'"{where}.metrics[{k}].{field}" is required'
            for field in ("type", "value")
            if not isinstance(metric, dict) or metric.get(field) is None
        ]
    return messages


def tags(data: _Metadata, *, adapter: bool = False) -> list[str]:
    """Return what the model list can be filtered by, as the Hub derives it from a card.

    ``adapter`` tells that the files are an adapter's; a card may name another relation.
    """
    filters = [text for key in ("library_name", "pipeline_tag") for text in _strings(data.get(key))]
    filters += _strings(data.get("tags")) + _strings(data.get("language"))
    filters += ["model-index"] if data.get("model-index") else []
    filters += [f"dataset:{id}" for id in _strings(data.get("datasets"))]
    filters += [f"license:{name}" for name in _strings(data.get("license"))]
    bases = _strings(data.get("base_model"))
    relation = data.get("base_model_relation")
    if relation not in RELATIONS:
        adapter = adapter or data.get("library_name") == "peft"
        relation = "adapter" if adapter else "merge" if len(bases) > 1 else "finetune"
    for base in bases:
        filters += [f"base_model:{base}", f"base_model:{relation}:{base}"]
    return list(dict.fromkeys(filters))


def _is_strings(value: Any, *, list_only: bool = False) -> bool:
    if isinstance(value, str):
        return not list_only
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _strings(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return [item for item in items if isinstance(item, str)]
