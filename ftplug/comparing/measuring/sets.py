"""Which data an evaluation is of: the evaluation set, the training set, or another: a test set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftplug.comparing.measuring.evaluations import Evaluation


def is_training_set(found: Evaluation, first_batch: Collection[bytes], *, itself: bool) -> bool:
    """Whether data are the training's: the set ``itself``, by name, or by the first batch."""
    if itself or found.prefix.startswith("train"):
        return True
    return bool(first_batch) and set(first_batch) <= set(found.examples)


def is_evaluation_set(found: Evaluation, earlier: Sequence[Evaluation]) -> bool:
    """Whether data that are another object are the evaluation set all the same."""
    examples = sorted(found.examples)
    return bool(examples) and any(sorted(one.examples) == examples for one in _own(earlier))


def stands_for_it(found: Evaluation, earlier: Sequence[Evaluation]) -> bool:
    """Whether data count as the evaluation set of a Trainer that was given none.

    The first that are evaluated do: rates must not be chosen on the test set that comes after it.
    The training set does while there is no other, and a set that comes after a test set does.
    """
    own = [one for one in _own(earlier) if not one.is_training]
    if found.is_training:
        return not own
    return not own or (any(one.is_named_test for one in own) and not found.is_named_test)


def is_part_of_it(found: Evaluation, earlier: Sequence[Evaluation]) -> bool:
    """Whether data are a part of the evaluation set."""
    examples = Counter(found.examples)
    return bool(examples) and any(examples <= Counter(one.examples) for one in _own(earlier))


def _own(earlier: Sequence[Evaluation]) -> list[Evaluation]:
    return [one for one in earlier if not one.elsewhere]
