"""Which metric counts, and whether more of it is better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ftplug.training.history import TIMING

LOSS = "loss"
# Of a name with one of these words less is better, unless it ends in a word of which more is.
_LOWER = re.compile(
    r"(loss|error|perplexity)$|(^|_)(loss|losses|error|errors|err|perplexity|ppl|nll|mse|mae|rmse|"
    r"mape|smape|msle|rmsle|wer|cer|ter|mer|eer|brier|ece|crps|bpb|bpc|bits|distance|divergence|kl|"
    r"fid|fpr|fnr|neg(ative)?_log_likelihood|cross_entropy|deviance|"
    r"false_(positive|negative|discovery|omission|alarm|acceptance|rejection)s?)(_|$)"
)
_TURNED = re.compile(r"^neg_(?!log_likelihood)")  # scikit-learn's name of an error times -1
_GREATER = ("accuracy", "acc", "f1", "precision", "recall", "auc", "auroc", "auprc")


def bare(name: str, prefix: str = "eval") -> str:
    """Return a metric's name without the prefix of its evaluation."""
    return name.removeprefix(f"{prefix}_")


def numbers(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Return the numbers among metrics by bare name, without what they say about speed."""
    return {
        bare(name, prefix): float(value)
        for name, value in metrics.items()
        if name.startswith(f"{prefix}_") and not name.endswith(TIMING)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def is_loss(name: str) -> bool:
    """Whether a metric is the loss, of whichever evaluation set."""
    return name == LOSS or name.endswith(f"_{LOSS}")


def asked_for(asked: str | None, args: Any) -> str | None:
    """Return the bare name that the comparison or the script asks for; None if neither does."""
    name = asked or args.metric_for_best_model
    return bare(name) if name else None


def first_computed(names: Iterable[str], *, computes: bool) -> str | None:
    """Return the first metric that ``compute_metrics`` gave, else the loss, else None."""
    given = list(names)
    computed = [name for name in given if not is_loss(name)] if computes else []
    return next(iter([*computed, *filter(is_loss, given)]), None)


def greater_is_better(metric: str, args: Any, said: bool | None = None) -> bool:
    """Whether more is better: as is ``said``, as the script says of its best model, or by the name.

    Less is better of names with a word such as loss, error, perplexity, mse, wer or distance in
    them, and of rates of what is false: ``error_rate``, ``loss_mean``, ``false_positive_rate``;
    more of what scikit-learn turns, as ``neg_log_loss``.
    """
    if said is not None:
        return said
    named = args.metric_for_best_model
    if named and bare(named) == metric and args.greater_is_better is not None:
        return bool(args.greater_is_better)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])|\W", "_", metric).lower()
    if _TURNED.match(name):
        return True
    return name.split("_")[-1] in _GREATER or _LOWER.search(name) is None
