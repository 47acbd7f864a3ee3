"""A probe's pieces as tensors and JSON, and back: what a stranger wrote is checked whole."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from annotated_types import Ge, Le, Len
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.effect.pieces import MOST_STORED, Answers, Continuation, Drawn, Input
from ftplug.errors import ArtifactError, one_line

if TYPE_CHECKING:
    import pydantic
    from torch import Tensor

VERSION = 1
KINDS = ("hidden", "log_probs", "logits")
_SETS = ("trained", "head_only", "base")
_MOST_INPUTS, _MOST_TENSORS, _MOST_TOKENS = 32, 16, 2**31 - 1
_MOST_DRAWN = 2**22  # numbers of one input: a film of 16 frames of 224 by 224
_MOST_DRAWN_IN_ALL = 2**25
_STORED = "stored."
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

_Text = Annotated[str, Len(0, 1024)]
_Count = Annotated[int, Ge(0), Le(4096)]
_Token = Annotated[int, Ge(0), Le(_MOST_TOKENS)]
_Tokens = Annotated[list[_Token], Len(0, 64)]


class _Drawn(TypedDict):
    seed: Annotated[int, Ge(0), Le(2**32 - 1)]
    shape: Annotated[list[Annotated[int, Ge(1), Le(_MOST_DRAWN)]], Len(1, 6)]
    sha256: Annotated[str, Len(64, 64)]
    columns: NotRequired[Annotated[int, Ge(1), Le(999)]]


class _Input(TypedDict):
    text: _Text | None
    stored: Annotated[dict[str, Annotated[int, Ge(0), Le(999)]], Len(0, _MOST_TENSORS)]
    drawn: Annotated[dict[str, _Drawn], Len(0, _MOST_TENSORS)]


class _Continuation(TypedDict):
    input: Annotated[int, Ge(0), Le(_MOST_INPUTS - 1)]
    trained: _Tokens
    trained_text: _Text
    base: _Tokens | None
    base_text: _Text | None


class _About(TypedDict):
    version: int
    dtype: Annotated[str, Len(1, 20)]
    classes: Annotated[int, Ge(0), Le(4096)]
    inputs: Annotated[list[_Input], Len(1, _MOST_INPUTS)]
    counts: dict[str, Annotated[list[_Count | None], Len(1, _MOST_INPUTS)]]
    token_counts: Annotated[list[_Count], Len(0, _MOST_INPUTS)]
    continuations: Annotated[list[_Continuation], Len(0, _MOST_INPUTS)]


def pack(probe: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the fields of a probe as tensors and JSON: the answers of one kind in one row."""
    import torch

    inputs, kept = probe["inputs"], _Kept()
    about_inputs = [_about_input(each, kept) for each in inputs]
    tensors = kept.tensors()
    for which in _SETS:
        for kind in KINDS:
            rows = [answers[kind] for answers in probe[which] or () if kind in answers]
            if rows:
                tensors[f"{which}.{kind}"] = torch.cat(rows)
    if probe["token_ids"]:
        tensors["token_ids"] = torch.cat(probe["token_ids"])
    about = {
        "version": VERSION,
        "dtype": probe["dtype"],
        "classes": probe["classes"],
        "inputs": about_inputs,
        "counts": {
            kind: [len(answers[kind]) if kind in answers else None for answers in probe["trained"]]
            for kind in KINDS
        },
        "token_counts": [len(ids) for ids in probe["token_ids"]],
        "continuations": [vars(each) for each in probe["continuations"]],
    }
    return tensors, about


def _about_input(each: Input, kept: _Kept) -> dict[str, Any]:
    return {
        "text": each.text,
        "stored": {name: kept.number(value) for name, value in sorted(each.stored.items())},
        "drawn": {name: drawn.fields() for name, drawn in each.drawn.items()},
    }


class _Kept:
    """Whole numbers in the smallest type that holds them, and each tensor once: masks are alike."""

    def __init__(self) -> None:
        self._found: list[Tensor] = []

    def number(self, value: Tensor) -> int:
        """Return which of the file's tensors it is."""
        narrow = _narrowed(value)
        for index, known in enumerate(self._found):
            if known.dtype == narrow.dtype and known.shape == narrow.shape and known.equal(narrow):
                return index
        self._found.append(narrow)
        return len(self._found) - 1

    def tensors(self) -> dict[str, Tensor]:
        """Return them by their names in the file."""
        return {f"{_STORED}{index}": value for index, value in enumerate(self._found)}


def _narrowed(value: Tensor) -> Tensor:
    import torch

    if value.dtype == torch.bool:
        return value.clone(memory_format=torch.contiguous_format)
    low, high = (int(each) for each in value.aminmax())
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        info = torch.iinfo(dtype)
        if info.min <= low and high <= info.max:
            break
    return value.to(dtype, copy=True, memory_format=torch.contiguous_format)


def unpack(tensors: Mapping[str, Tensor], content: Any, path: Path) -> dict[str, Any]:
    """Return the fields of a probe; an ArtifactError says what is off."""
    import pydantic

    if isinstance(content, dict) and content.get("version", VERSION) != VERSION:
        raise ArtifactError(f"{path}: a probe of another version than {VERSION}: update ftplug")
    try:
        about = _adapter().validate_python(content, strict=True)
        return _Unpacking(dict(tensors), about, len(about["inputs"])).fields()
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise ArtifactError(f"{path}: its metadata: {where}: {first['msg'][:120]}") from None
    except _Malformed as error:
        raise ArtifactError(f"{path}: no probe: {one_line(error)[:200]}") from None


class _Malformed(Exception):
    """What a probe's file cannot be."""


class _Unpacking:
    """Takes the tensors of a file one by one; what is left over is none of a probe's."""

    def __init__(self, tensors: dict[str, Tensor], about: _About, count: int) -> None:
        self.tensors, self.about, self.count = tensors, about, count

    def fields(self) -> dict[str, Any]:
        about = self.about
        found = {
            "inputs": self._inputs(),
            "trained": self._answers("trained"),
            "head_only": self._answers("head_only"),
            "base": self._answers("base") if self._has("base") else None,
            "token_ids": self._token_ids(),
            "continuations": tuple(self._continuation(each) for each in about["continuations"]),
            "dtype": about["dtype"],
            "classes": about["classes"],
        }
        if self.tensors:
            raise _Malformed(f"tensor {next(iter(self.tensors))[:60]!a} belongs to nothing in it")
        return found

    def _has(self, which: str) -> bool:
        return any(name.startswith(f"{which}.") for name in self.tensors)

    def _stored(self) -> dict[int, Tensor]:
        """Take the inputs' whole numbers out of the file."""
        import torch

        found: dict[int, Tensor] = {}
        for index in range(sum(name.startswith(_STORED) for name in self.tensors)):
            value = self.tensors.pop(f"{_STORED}{index}", None)
            if value is None:
                raise _Malformed(f"{_STORED}{index} is missing")
            kinds = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
            if value.dtype not in kinds or not 1 <= value.dim() <= 4:
                raise _Malformed(f"{_STORED}{index}: {value.dtype}, {value.dim()} dims")
            if not 1 <= value.numel() <= MOST_STORED:
                raise _Malformed(f"{_STORED}{index} has {value.numel():,} numbers")
            found[index] = value if value.dtype == torch.bool else value.to(torch.int64)
        return found

    def _inputs(self) -> tuple[Input, ...]:
        known, used, drawn = self._stored(), set(), 0
        inputs = []
        for index, about in enumerate(self.about["inputs"]):
            names = (*about["stored"], *about["drawn"])
            if not names or len(names) > _MOST_TENSORS or len(set(names)) != len(names):
                raise _Malformed(f"input {index} has no arguments, too many, or one twice")
            if bad := [name for name in names if not _NAME.fullmatch(name)]:
                raise _Malformed(f"input {index}: {bad[0][:60]!a} is no name of an argument")
            if lost := set(about["stored"].values()) - known.keys():
                raise _Malformed(f"{_STORED}{min(lost)} is missing")
            used |= set(about["stored"].values())
            own = sum(math.prod(each["shape"]) for each in about["drawn"].values())
            drawn += own
            if own > _MOST_DRAWN or drawn > _MOST_DRAWN_IN_ALL:
                raise _Malformed(f"input {index} draws {own:,} numbers, {drawn:,} in all by then")
            inputs.append(
                Input(
                    {name: known[number] for name, number in about["stored"].items()},
                    {name: _drawn(index, each) for name, each in about["drawn"].items()},
                    about["text"],
                )
            )
        if unused := known.keys() - used:
            raise _Malformed(f"{_STORED}{min(unused)} belongs to nothing in it")
        return tuple(inputs)

    def _answers(self, which: str) -> Answers:
        found: list[dict[str, Tensor]] = [{} for _ in range(self.count)]
        for kind in KINDS:
            counts = self.about["counts"].get(kind) or [None] * self.count
            row = self.tensors.pop(f"{which}.{kind}", None)
            if row is None and (which == "base" or not any(counts)):
                continue
            for answers, part in zip(found, self._cut(row, counts, f"{which}.{kind}"), strict=True):
                if part is not None:
                    answers[kind] = part
        return tuple(found)

    def _cut(
        self, row: Tensor | None, counts: Sequence[int | None], what: str
    ) -> list[Tensor | None]:
        """Cut a row of float32 into the parts of the inputs."""
        import torch

        if row is None or row.dtype != torch.float32 or len(counts) != self.count:
            raise _Malformed(f"{what} is missing, no float32, or not of {self.count} inputs")
        if row.dim() != 1 or len(row) != sum(n or 0 for n in counts):
            raise _Malformed(
                f"{what} has other than the {sum(n or 0 for n in counts)} numbers told"
            )
        if not row.isfinite().all():
            raise _Malformed(f"{what} has answers that are NaN or infinite")
        parts = iter(row.split([n for n in counts if n is not None]))
        return [None if n is None else next(parts) for n in counts]

    def _token_ids(self) -> tuple[Tensor, ...]:
        import torch

        counts = self.about["token_counts"]
        ids = self.tensors.pop("token_ids", None)
        wanted = [n or 0 for n in self.about["counts"].get("log_probs", [])]
        if ids is None:
            if counts or any(wanted):
                raise _Malformed("token_ids is missing")
            return ()
        if ids.dtype != torch.int64 or ids.dim() != 1 or len(ids) != sum(counts):
            raise _Malformed("token_ids is no row of as many int64 as told")
        known = (ids >= 0) & (ids <= _MOST_TOKENS)
        if counts != wanted or not len(ids) or not bool(known.all()):
            raise _Malformed("token_ids does not fit log_probs")
        parts: tuple[Tensor, ...] = ids.split(counts)
        return parts

    def _continuation(self, about: _Continuation) -> Continuation:
        if about["input"] >= self.count or (about["base"] is None) != (about["base_text"] is None):
            raise _Malformed("a continuation of no input, or half of one")
        return Continuation(
            about["input"],
            tuple(about["trained"]),
            about["trained_text"],
            None if about["base"] is None else tuple(about["base"]),
            about["base_text"],
        )


def _drawn(index: int, about: _Drawn) -> Drawn:
    shape, columns = tuple(about["shape"]), about.get("columns", 0)
    if columns and (len(shape) < 2 or shape[-1] < 2):
        raise _Malformed(f"input {index}: numbers of shape {shape} are no patches with a place")
    return Drawn(about["seed"], shape, about["sha256"], columns)


@functools.cache
def _adapter() -> pydantic.TypeAdapter[_About]:
    import pydantic

    return pydantic.TypeAdapter(_About)
