"""The rows that an artifact was evaluated on: the demo's, a data set's of the Hub, or a file's."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftplug.artifacts.digests import sha256
from ftplug.demo import data as demo
from ftplug.errors import ArtifactError, one_line
from ftplug_registry.card.metadata import is_hub_id

_FORMATS = ("csv", "json", "parquet")
Columns = tuple[list[str], str]  # of the texts, and of the label


@dataclass(frozen=True)
class Rows:
    """Texts by column, a label for each row, and what to call them."""

    name: str
    texts: tuple[Sequence[str], ...]
    labels: Sequence[Any]


def rows_of(
    facts: Mapping[str, Any],
    columns: Columns,
    directory: Path,
    file: str | os.PathLike[str] | None,
) -> Rows:
    """Return the rows that a manifest's facts name; ArtifactError where one of them is missing."""
    source = facts.get("source")
    if source == demo.SOURCE:
        return _demo(facts, directory)
    if source == "datasets":
        return _on_the_hub(facts, columns, directory)
    if source == "file":
        return _in_a_file(facts, columns, directory, file)
    raise _cannot(directory, "the manifest does not say where its data come from")


def _cannot(directory: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{directory}: cannot be measured again: {why}")


def _demo(facts: Mapping[str, Any], directory: Path) -> Rows:
    sentences = demo.split(demo.read_sentences()).test
    if facts.get("split") != "test" or facts.get("sha256") != demo.digest(sentences):
        raise _cannot(directory, "this version of ftplug holds out other sentences for its demo")
    texts, labels = zip(*sentences, strict=True)
    return Rows(f"{demo.NAME} (held out)", (texts,), labels)


def _on_the_hub(facts: Mapping[str, Any], columns: Columns, directory: Path) -> Rows:
    name, revision, split = (facts.get(key) for key in ("dataset", "revision", "split"))
    config = facts.get("config")
    if not is_hub_id(name) or os.path.exists(str(name)):
        raise _cannot(directory, f"{name!r:.80} is no data set on the Hub: its id is missing")
    if not isinstance(revision, str) or not re.fullmatch("[0-9a-f]{40}", revision):
        raise _cannot(directory, f"the manifest lacks the revision (commit sha) of {name}")
    if not isinstance(split, str) or not re.fullmatch(r"[\w.-]{1,60}", split):
        raise _cannot(directory, f"the manifest lacks the split of {name}")
    import datasets

    try:
        rows = datasets.load_dataset(
            str(name),
            config if isinstance(config, str) else None,
            split=split,
            revision=revision,
            **_no_code(datasets.load_dataset),
        )
    except Exception as error:  # of the Hub, or of files that anybody wrote
        raise _cannot(directory, f"{name} cannot be read: {one_line(error)[:200]}") from error
    return _read(rows, columns, f"{name}@{revision[:12]}, split {split}", directory)


def _no_code(load: Any) -> dict[str, Any]:
    """Return the setting that forbids a data set's own code; newer versions never run any."""
    import inspect

    known = inspect.signature(load).parameters
    return {"trust_remote_code": False} if "trust_remote_code" in known else {}


def _in_a_file(
    facts: Mapping[str, Any],
    columns: Columns,
    directory: Path,
    file: str | os.PathLike[str] | None,
) -> Rows:
    name, digest, kind = (facts.get(key) for key in ("name", "sha256", "format"))
    if not isinstance(digest, str) or kind not in _FORMATS:
        raise _cannot(directory, "the manifest lacks the sha256 or the format of its file")
    if file is None:
        raise _cannot(directory, f"it was evaluated on a file ({name!s:.80}): name it with --data")
    path = Path(file)
    if not path.is_file() or sha256(path) != digest:
        raise _cannot(directory, f"{path} is not the file it was evaluated on (another sha256)")
    import datasets

    read = getattr(datasets.Dataset, f"from_{kind}")
    with tempfile.TemporaryDirectory(prefix="ftplug-data-") as cache:
        try:
            rows = read(str(path), cache_dir=cache, keep_in_memory=True)
        except Exception as error:
            raise _cannot(directory, f"{path} cannot be read: {one_line(error)[:200]}") from error
        return _read(rows, columns, path.name, directory)


def _read(rows: Any, columns: Columns, name: str, directory: Path) -> Rows:
    texts, label = columns
    for column in (*texts, label):
        if column not in rows.column_names:
            raise _cannot(directory, f"{name} has no column {column!r:.80}")
    found = tuple(list(rows[column]) for column in texts)
    if not all(isinstance(text, str) for column in found for text in column):
        raise _cannot(directory, f"{name}: a text column holds something else than text")
    return Rows(name, found, list(rows[label]))
