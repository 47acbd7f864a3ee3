"""The author's words about a model: the part of manifest and card that no run can measure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, cast

from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.errors import ArtifactError


class Author(TypedDict, total=False):
    """The author's words; every field may be absent.

    ``notes`` is markdown: intended use and limits. ``datasets`` are Hub ids, ``dataset_names`` how
    people call them, ``dataset_args`` their configurations. ``tasks`` are the Hub's pipeline tags.
    """

    model_name: str
    notes: str
    license: str
    language: list[str]
    tags: list[str]
    datasets: list[str]
    dataset_names: list[str]
    dataset_args: list[str]
    tasks: list[str]
    finetuned_from: str


_LONGEST_NAME = 120  # characters of a data set's name
_PATH = re.compile(r"(/|~|\.{1,2}[/\\]|[A-Za-z]:[/\\]|\\\\)")
_LISTS = {name for name, hint in Author.__annotations__.items() if "list" in str(hint)}

# What Trainer.create_model_card and TRL's call a field that has another name here.
_TRAINERS_NAMES = {
    "dataset_tags": "datasets",
    "dataset_name": "datasets",
    "dataset": "dataset_names",
}


def checked_author(said: Mapping[str, Any]) -> Author:
    """Return the author's facts, one string standing for a list of one; None says nothing.

    Raises :class:`ArtifactError` for a field that does not exist or has another type.
    """
    import pydantic

    given = {
        name: [value] if name in _LISTS and isinstance(value, str) else value
        for name, value in said.items()
        if value is not None
    }
    for name in given:
        if name not in Author.__annotations__:
            known = ", ".join(Author.__annotations__)
            raise ArtifactError(f"author: no field named {name!r}. The fields: {known}")
    try:
        return pydantic.TypeAdapter(Author).validate_python(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"author: {where}: {first['msg']}") from None


def merged_author(earlier: Author, later: Author) -> Author:
    """Return both: the later word counts, tags add up, and an empty value takes a field back."""
    merged = {**earlier, **later}
    if tags := later.get("tags"):
        merged["tags"] = list(dict.fromkeys([*earlier.get("tags", []), *tags]))
    return cast("Author", {name: value for name, value in merged.items() if value})


def author_from_card(said: Mapping[str, Any]) -> Author:
    """Return what a script tells ``Trainer.create_model_card``, under our names.

    Scripts pass on what they were called with, so anything here may be a local path: such values
    stay behind, and so does a keyword of which nothing is known.
    """
    facts: dict[str, Any] = {}
    for keyword, value in said.items():
        name = _TRAINERS_NAMES.get(keyword, keyword)
        values = [value] if isinstance(value, str) else value
        if name not in Author.__annotations__ or not isinstance(values, list | tuple):
            continue
        public = [str(item) for item in values if item is not None and not _is_local(str(item))]
        if public:
            facts[name] = facts.get(name, []) + public if name in _LISTS else public[0]
    return checked_author(facts)


def named_by_author(*, dataset_name: str | None = None, base_id: str | None = None) -> Author:
    """Return the names of data and base that an author gives on a command line, where given.

    Raises :class:`ArtifactError` for what can be none: a text of several lines, a path, an id that
    no repository could have.
    """
    named: Author = {}
    if dataset_name is not None:
        named["dataset_names"] = [_checked_name(dataset_name)]
    if base_id is not None:
        if not is_repo_id(base_id):
            raise ArtifactError(f"--base-id {_short(base_id)}: a repository's id is like org/name")
        named["finetuned_from"] = base_id
    return named


def require_base(author: Author, known: str | None) -> None:
    """Refuse another name for a base whose id a run knows."""
    named = author.get("finetuned_from")
    if named and known and named != known:
        raise ArtifactError(f"--base-id {named}: the base was loaded as {known}: leave it out")


def is_repo_id(text: Any) -> bool:
    """Whether a repository on the Hub could have this id."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return isinstance(text, str) and bool(text) and text.isprintable() and text == text.strip()


def _checked_name(text: str) -> str:
    name = text.strip()
    reason = ""
    if not name or not name.isprintable():
        reason = "write a name on one line"
    elif len(name) > _LONGEST_NAME:
        reason = f"at most {_LONGEST_NAME} characters"
    elif _PATH.match(name):
        reason = "a path means nothing to others: write a name"
    if reason:
        raise ArtifactError(f"--dataset-name {_short(text)}: {reason}")
    return name


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else f"{text[:40]}…")


def _is_local(text: str) -> bool:
    return _PATH.match(text) is not None or (os.sep in text and os.path.exists(text))
