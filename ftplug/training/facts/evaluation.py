"""How a Trainer's evaluation can be made again: data, columns, cut and metric, where known.

A Trainer gets rows that are tokenized already. What was done to them is found by trying: where the
rows still have their text, and the run's tokenizer makes the same ids of it, the way is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from ftplug.training.dataset import data_facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVALUATION = "evaluation"  # the name of that fact
ACCURACY, F1, LOSS = "accuracy", "f1 of class 1", "loss"
"""The metrics that ``ftplug verify --rerun`` computes; names in a manifest lead to one of them."""

_TRIED = 64  # rows from the beginning, and as many of the longest: these alone tell of a cut
_TEXT = ("string", "large_string")


def evaluation_facts(trainer: Any, metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return what is known of the evaluation of a classifier of texts; nothing of any other.

    ``data`` is where the rows come from, ``metrics`` which of ours each recorded one is,
    ``preprocessing`` the text columns, the label's, and after how many tokens a text is cut.
    """
    known = {name: ours for name, ours in _ours(metrics).items() if math.isfinite(metrics[name])}
    rows = trainer.eval_dataset
    if not known or not hasattr(rows, "info") or not _is_table(rows):
        return {}
    origin = data_facts(None, rows)
    names = ("dataset", "config", "revision")
    data = {name: origin.get(name) for name in names} | {"split": origin.get("eval_split")}
    facts = {
        "rows": len(rows),
        "metrics": known,
        "data": {"source": "datasets"} | {n: v for n, v in data.items() if v is not None},
        "preprocessing": _preprocessing(trainer, rows),
    }
    return {name: value for name, value in facts.items() if value}


def _is_table(rows: Any) -> bool:
    """Whether rows are a data set of ``datasets`` that is not streamed."""
    return (
        bool(getattr(rows, "features", None)) and hasattr(rows, "select_columns") and len(rows) > 0
    )


def _ours(metrics: Mapping[str, float]) -> dict[str, str]:
    """Return which recorded metrics mean what we compute; f1 may be one of several averages."""
    return {name: ACCURACY for name in metrics if name == "eval_accuracy"}


def _preprocessing(trainer: Any, rows: Any) -> dict[str, Any]:
    tokenizer, features = trainer.processing_class, rows.features
    labels = [name for name in ("label", "labels") if name in features]
    if not labels or "input_ids" not in features or not callable(tokenizer):
        return {}
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", "") in _TEXT][:4]
    lengths = _lengths(rows)
    tried = sorted({*range(min(len(rows), _TRIED)), *np.argsort(-lengths, kind="stable")[:_TRIED]})
    few = rows.with_format(None).select_columns(["input_ids", *texts]).select(tried)[:]
    # Rows that are padded to one width may be cut at it, which none of those at hand need show.
    cuts = (int(lengths.max()), None) if len(set(lengths)) == 1 else (None, int(lengths.max()))
    for chosen in _choices(texts):
        found, most = _cut(tokenizer, [few[name] for name in chosen], few["input_ids"], cuts)
        if found:
            return {"text": list(chosen), "label": labels[0], "max_length": most}
    return {}


def _lengths(rows: Any) -> NDArray[np.int64]:
    """Return how many tokens each row has, int64 of (rows,)."""
    table = rows.with_format("arrow").select_columns(["input_ids"])[:]
    found = [chunk.value_lengths().to_numpy() for chunk in table["input_ids"].chunks]
    return np.concatenate(found).astype(np.int64)


def _choices(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield columns that may have been tokenized: each alone, then in pairs."""
    yield from ((name,) for name in texts)
    yield from permutations(texts, 2)


def _cut(
    tokenizer: Any,
    columns: Sequence[Sequence[str]],
    ids: Sequence[Sequence[int]],
    cuts: Sequence[int | None],
) -> tuple[bool, int | None]:
    """Return whether a tokenizer makes these ids of these columns, and at which of these cuts."""
    for most in cuts:
        cut = {"truncation": True, "max_length": most} if most else {}
        try:
            made = tokenizer(*map(list, columns), **cut)["input_ids"]
        except Exception:  # of a tokenizer of any kind
            return False, None
        if [list(row) for row in made] == [_unpadded(row, tokenizer) for row in ids]:
            return True, most
    return False, None


def _unpadded(row: Sequence[int], tokenizer: Any) -> list[int]:
    end = len(row)
    while end > 1 and row[end - 1] == tokenizer.pad_token_id:
        end -= 1
    return list(row[:end])
