"""Finding artifacts on the Hub: by base, method, task and metric."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from ftplug.errors import RegistryError
from ftplug_registry.card.markdown import is_number
from ftplug_registry.card.metadata import BASE_TAG, metric_name
from ftplug_registry.hub import Hub

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TAG = "ftplug"
ORDERS = {"modified": "last_modified", "created": "created_at", "downloads": "downloads"} | {
    "likes": "likes"
}
_MOST = 2000  # repositories read to sort by what the Hub itself cannot


@dataclass(frozen=True)
class Found:
    """One repository; ``metrics`` are those of its model-index, by name.

    ``base_known_by`` has fingerprint and architecture of a base that was loaded from a folder.
    """

    repo_id: str
    base: str | None
    methods: tuple[str, ...]
    task: str | None
    metrics: dict[str, float] = field(default_factory=dict)
    modified: datetime | None = None
    downloads: int | None = None
    private: bool = False
    sha: str | None = None
    base_known_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """One page of results; ``more`` tells whether there is a next one."""

    results: tuple[Found, ...]
    number: int
    more: bool


def search(
    text: str | None = None,
    *,
    base: str | None = None,
    method: str | None = None,
    task: str | None = None,
    metric: str | None = None,
    author: str | None = None,
    sort: str = "modified",
    reverse: bool = False,
    limit: int = 20,
    page: int = 1,
    hub: Hub | None = None,
) -> Page:
    """Return one page of the artifacts published by ftplug that fit all that is asked.

    ``text`` is looked for in repository names. ``base`` is a Hub id, or what a base without one is
    known by: its fingerprint, architecture (``bert``) or the model's class. ``metric`` keeps those
    that report it, on whatever data; ``eval_f1``, as a Trainer says it, is f1. ``sort`` is
    ``modified``, ``created``, ``downloads`` or ``likes`` (most first), ``metric`` (best first,
    where lower is better for losses and error rates), or ``repository``, ``method``, ``base`` or
    ``task`` (by letters, those without one last); ``reverse`` turns the order round. What the Hub
    cannot sort by is sorted here, of the 2000 latest.
    """
    orders = (*ORDERS, "metric", *_COLUMNS)
    if sort not in orders:
        raise RegistryError(f"search: cannot sort by {sort!r}: {', '.join(orders)}")
    metric = metric_name(metric)[0] if metric else None
    if sort == "metric" and metric is None:
        raise RegistryError("search: name the --metric to sort by")
    if limit < 1 or page < 1:
        raise RegistryError("search: limit and page are positive numbers")
    if page * limit >= sys.maxsize:
        raise RegistryError("search: limit and page are too large: begin with page 1")
    hub = hub or Hub()
    tags = [TAG, *([f"{TAG}:{method}"] if method else [])]
    with hub.stated_errors("search"):
        models = (
            model
            for more in _base_filters(base)
            for model in hub.api.list_models(
                filter=[*tags, *more],
                pipeline_tag=task,
                search=text,
                author=author,
                sort=ORDERS.get(sort, "last_modified"),  # type: ignore[arg-type]
                full=True,
                cardData=True,
            )
        )
        artifacts = _with_metric(map(_found, models), metric)
        if key := _key(sort, metric):
            artifacts = iter(sorted(islice(artifacts, _MOST), key=key))
        if reverse:
            artifacts = reversed(list(islice(artifacts, _MOST)))
        start = (page - 1) * limit
        window = list(islice(artifacts, start, start + limit + 1))
    return Page(tuple(window[:limit]), page, len(window) > limit)


def _key(sort: str, metric: str | None) -> Callable[[Found], Any] | None:
    """Return what to sort by here, None for what the Hub sorts by."""
    if sort != "metric" or metric is None:
        return _COLUMNS.get(sort)
    sign = 1 if _lower_is_better(metric) else -1
    return lambda one: sign * one.metrics[metric]


def _letters(text: str | None) -> tuple[bool, str]:
    return not text, (text or "").lower()


_COLUMNS: dict[str, Callable[[Found], Any]] = {
    "repository": lambda one: one.repo_id.lower(),
    "method": lambda one: _letters(" + ".join(one.methods)),
    "base": lambda one: _letters(one.base or " ".join(one.base_known_by)),
    "task": lambda one: _letters(one.task),
}


def _base_filters(base: str | None) -> list[list[str]]:
    """Return the tags of a base, one list after another: what is no ``org/name`` may be either."""
    if not base:
        return [[]]
    by_id, by_what_it_is = [f"base_model:{base}"], [f"{BASE_TAG}{base}"]
    return [by_id] if "/" in base else [by_what_it_is, by_id]


def _with_metric(artifacts: Iterator[Found], metric: str | None) -> Iterator[Found]:
    return artifacts if metric is None else (one for one in artifacts if metric in one.metrics)


def _lower_is_better(metric: str) -> bool:
    return metric.endswith(("loss", "error", "perplexity", "wer", "cer", "mse", "mae", "rmse"))


def _found(info: ModelInfo) -> Found:
    card = info.card_data
    tags = info.tags or []
    base: Any = card.get("base_model") if card else None
    base = base[0] if isinstance(base, list) and base else base
    return Found(
        repo_id=info.id,
        base=base if isinstance(base, str) else None,
        methods=tuple(t.removeprefix(f"{TAG}:") for t in tags if t.startswith(f"{TAG}:")),
        task=info.pipeline_tag,
        metrics=_metrics(card),
        modified=info.last_modified,
        downloads=info.downloads,
        private=bool(info.private),
        sha=info.sha,
        base_known_by=tuple(t.removeprefix(BASE_TAG) for t in tags if t.startswith(BASE_TAG)),
    )


def _metrics(card: Any) -> dict[str, float]:
    """Return the finite numbers of a card's model-index; of one name the held-out one counts."""
    metrics: dict[str, float] = {}
    results = getattr(card, "eval_results", None) or ()
    for result in sorted(results, key=lambda one: one.dataset_split != "test"):
        value = result.metric_value
        if is_number(value) and abs(value) <= sys.float_info.max:
            metrics.setdefault(str(result.metric_type), float(value))
    return metrics
