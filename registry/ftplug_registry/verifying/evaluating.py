"""Asking a classifier of texts all rows of an evaluation, and counting."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.errors import ArtifactError, FtplugError, one_line
from ftplug.training.facts.evaluation import ACCURACY, F1
from ftplug_registry.verifying.evaluation_data import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH = 64
_DRAWS = 500  # of the bootstrap


@dataclass(frozen=True)
class Answered:
    """The likeliest class of each row, and the right one; both (rows,) int64."""

    predicted: NDArray[np.int64]
    labels: NDArray[np.int64]


def answered(
    directory: Path, base: str | os.PathLike[str] | None, rows: Rows, most: int | None
) -> Answered:
    """Load the artifact on its base and ask it every row, a text cut after ``most`` tokens."""
    import numpy as np
    import torch

    import ftplug

    if base is None:
        raise ArtifactError(f"{directory}: its base has no Hub id: name its folder with --base")
    tokenizer = _tokenizer(directory)
    model: Any = ftplug.load(base, directory)
    labels = _labels(rows.labels, model.config, directory)
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    cut: dict[str, Any] = {"truncation": True, "max_length": most} if most else {}
    found = []
    with torch.inference_mode(), _in_one_line(directory):
        for start in range(0, len(labels), _BATCH):
            texts = [list(column[start : start + _BATCH]) for column in rows.texts]
            batch = tokenizer(*texts, padding=True, return_tensors="pt", **cut)
            _require_known(batch["input_ids"], model, directory)
            found.append(model(**batch.to(model.device)).logits.argmax(-1).cpu().numpy())
    return Answered(np.concatenate(found), labels)


@contextlib.contextmanager
def _in_one_line(directory: Path) -> Iterator[None]:
    """Say in one line what a tokenizer or model does not take: no pad token, too long a text."""
    try:
        yield
    except FtplugError:
        raise
    except Exception as error:  # whatever the files of a stranger lead to
        said = one_line(error)[:200] or type(error).__name__
        raise ArtifactError(f"{directory}: cannot be measured again: {said}") from error


def _require_known(ids: Any, model: Any, directory: Path) -> None:
    """Refuse ids beyond the vocabulary, which on a GPU would end the whole process."""
    size, largest = model.get_input_embeddings().weight.shape[0], int(ids.max())
    if largest >= size:
        raise ArtifactError(
            f"{directory}: cannot be measured again: its tokenizer gives the id {largest}, and the "
            f"model reads {size}: they are not of one another"
        )


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    if not (directory / "tokenizer_config.json").is_file():
        raise ArtifactError(
            f"{directory}: cannot be measured again: it has no tokenizer (save_model with "
            "processing_class keeps it)"
        )
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever its files say
        raise ArtifactError(f"{directory}: its tokenizer: {one_line(error)[:200]}") from error


def _labels(labels: Sequence[Any], config: Any, directory: Path) -> NDArray[np.int64]:
    """Return the classes of rows: whole numbers as they are, names by the model's config."""
    import numpy as np

    numbers = {str(name): int(number) for number, name in (config.id2label or {}).items()}
    found = [numbers.get(label) if isinstance(label, str) else label for label in labels]
    if not found or any(isinstance(n, bool) or not isinstance(n, int) for n in found):
        raise ArtifactError(
            f"{directory}: cannot be measured again: a label of its data is no class of the model"
        )
    return np.array(found, dtype=np.int64)


def _accuracy(given: Answered) -> tuple[float, float]:
    """Return accuracy and its standard error, which is a row at least."""
    rows = len(given.labels)
    share = float((given.predicted == given.labels).mean())
    return share, max((share * (1 - share) / rows) ** 0.5, 1 / rows)


def _f1(given: Answered) -> tuple[float, float]:
    """Return F1 of class 1, and its standard error by a seeded bootstrap."""
    import numpy as np

    rows, draw = len(given.labels), np.random.RandomState(0)
    samples = (draw.randint(0, rows, rows) for _ in range(_DRAWS))  # 4 GB at once of a million rows
    values = [_f1_of(given.predicted[at], given.labels[at]) for at in samples]
    return _f1_of(given.predicted, given.labels), max(float(np.std(values)), 1 / rows)


def _f1_of(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    both = int(((predicted == 1) & (labels == 1)).sum())
    either = int((predicted == 1).sum() + (labels == 1).sum())
    return 2 * both / either if either else 0.0


figures: dict[str, Callable[[Answered], tuple[float, float]]] = {ACCURACY: _accuracy, F1: _f1}
"""The metrics that can be computed here: of answers, value and standard error."""
