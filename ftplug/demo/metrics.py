"""Accuracy and F1 as ``evaluate`` modules around scikit-learn.

``evaluate.load("accuracy")`` fetches code from the Hub at run time; these need no network, and
being held in memory they write nothing but evaluate's empty cache folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features, Value
from sklearn.metrics import accuracy_score, f1_score


class _ClassLabels(evaluate.EvaluationModule):  # type: ignore[misc]
    """A metric of predicted against true class numbers: ``compute(predictions=, references=)``."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.EvaluationModuleInfo:
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation="",
            features=Features({"predictions": Value("int32"), "references": Value("int32")}),
        )


class Accuracy(_ClassLabels):
    """The share of rows whose class is predicted right."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}


class F1(_ClassLabels):
    """The harmonic mean of precision and recall of class 1."""

    def _compute(self, predictions: Sequence[int], references: Sequence[int]) -> dict[str, float]:
        return {"f1": float(f1_score(references, predictions))}


def scores(predictions: Any, references: Any) -> dict[str, float]:
    """Return accuracy and F1 of predicted against true class numbers."""
    result: dict[str, float] = {}
    for metric in (Accuracy(), F1()):
        result |= metric.compute(predictions=predictions, references=references)
    return result
