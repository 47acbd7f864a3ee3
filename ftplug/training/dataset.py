"""Facts about a run's data: rows, Hub id, revision and split, and the commonest label."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

_COUNTED = 100_000  # rows whose labels are read at most: some milliseconds

# The dataset and its commit, in the address of a downloaded file.
_ADDRESS = re.compile(
    r"/datasets/(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:@|/resolve/)(?P<sha>[0-9a-f]{40})(?:/|$)"
)
# The same in datasets' cache: …/ORG___NAME/CONFIG/VERSION/COMMIT/FILE.arrow
_CACHED = re.compile(
    r"(?:^|[/\\])(?:(?P<owner>[^/\\]+)___)?(?P<name>[^/\\]+)[/\\][^/\\]+[/\\][^/\\]+[/\\]"
    r"(?P<sha>[0-9a-f]{40})[/\\][^/\\]+$"
)


def data_facts(train: Any, evaluation: Any) -> dict[str, Any]:
    """Return rows and, where ``datasets`` knows them, id, configuration, split and commit.

    What both share is said once; where the evaluation data differ they have an ``eval_`` entry of
    their own.
    """
    facts: dict[str, Any] = {}
    origins: dict[str, dict[str, Any]] = {}
    for name, dataset in (("train", train), ("eval", evaluation)):
        if hasattr(dataset, "__len__") and not isinstance(dataset, dict):
            facts[f"{name}_rows"] = len(dataset)
        origins[name] = _origin(dataset)
        facts[f"{name}_split"] = origins[name].pop("split", None)
    facts |= origins["train"] or origins["eval"]
    if origins["train"] and origins["eval"] and origins["train"] != origins["eval"]:
        facts |= {f"eval_{name}": value for name, value in origins["eval"].items()}
    return {name: value for name, value in facts.items() if value is not None}


def other_data_facts(dataset: Any) -> dict[str, Any]:
    """Return what is known of a set that a model was evaluated on: rows, origin, fingerprint.

    The fingerprint is that of ``datasets``, which changes with everything done to the rows.
    """
    facts = {"rows": len(dataset) if hasattr(dataset, "__len__") else None, **_origin(dataset)}
    facts["fingerprint"] = getattr(dataset, "_fingerprint", None)
    return {name: value for name, value in facts.items() if value is not None}


def majority_share(dataset: Any) -> float | None:
    """Return the share of a dataset's commonest label: the accuracy of always answering it.

    Only where labels are whole numbers, one per row, and at hand without computing the rows.
    """
    rows = len(dataset) if hasattr(dataset, "__len__") else 0
    if not 0 < rows <= _COUNTED:
        return None
    counts = Counter(map(_whole_number, _labels(dataset)))
    if not counts or None in counts:
        return None
    return max(counts.values()) / rows


def _origin(dataset: Any) -> dict[str, Any]:
    """Return what a ``datasets`` dataset, however mapped and filtered, says of its source."""
    info: Any = getattr(dataset, "info", None)
    if not hasattr(info, "dataset_name"):
        return {}
    name, revision = _on_the_hub(dataset) or (info.dataset_name, None)
    if name is None:
        return {}
    version = str(info.version or "0.0.0")
    return {
        "dataset": name,
        "config": info.config_name,
        "revision": revision,
        "version": None if version == "0.0.0" else version,
        "split": str(dataset.split) if getattr(dataset, "split", None) else None,
    }


def _on_the_hub(dataset: Any) -> tuple[str, str] | None:
    """Return Hub id and commit, from the addresses of its files or the place they are cached in."""
    for address in getattr(dataset.info, "download_checksums", None) or {}:
        if match := _ADDRESS.search(str(address)):
            return match["id"], match["sha"]
    for file in getattr(dataset, "cache_files", None) or []:
        if match := _CACHED.search(str(file.get("filename", ""))):
            name, sha = match["name"], match["sha"]
            return _spelled(f"{match['owner']}/{name}" if match["owner"] else name, sha), sha
    return None


def _spelled(repo_id: str, sha: str) -> str:
    """Return the id as the Hub spells it: ``datasets`` caches CamelCase under snake_case."""
    from huggingface_hub import constants

    def plain(text: str) -> str:
        return text.replace("_", "").lower()

    for snapshot in Path(constants.HF_HUB_CACHE).glob(f"datasets--*/snapshots/{sha}"):
        known = snapshot.parent.parent.name.removeprefix("datasets--").replace("--", "/")
        if plain(known) == plain(repo_id):
            return known
    return repo_id


def _labels(dataset: Any) -> list[Any]:
    """Return the label of each row, or an empty list where that would mean computing the rows."""
    if isinstance(dataset, list):
        rows = [row if isinstance(row, dict) else {} for row in dataset]
        return [row.get("labels", row.get("label")) for row in rows]
    if not (hasattr(dataset, "info") and hasattr(dataset, "with_format")):
        return []
    columns = [name for name in ("labels", "label") if name in (dataset.column_names or ())]
    return (
        list(dataset.with_format(None).select_columns(columns[:1])[:][columns[0]])
        if columns
        else []
    )


def _whole_number(label: Any) -> int | None:
    if getattr(label, "ndim", None) == 0 and hasattr(label, "item"):
        label = label.item()  # numpy's or torch's
    return label if isinstance(label, int) and not isinstance(label, bool) else None
