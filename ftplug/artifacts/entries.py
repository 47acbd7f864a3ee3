"""The entries of a manifest: what each of its keys holds, as types that are checked when read."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from annotated_types import Ge, Le, MaxLen
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12


class MethodEntry(TypedDict):
    """One method of the run, its distribution, what it wrote, names for its patterns (if any)."""

    name: str
    settings: dict[str, Any]
    distribution: str | None
    version: str | None
    files: NotRequired[list[str]]
    resolved: NotRequired[dict[str, Any]]


class Digests(TypedDict):
    """The two digests of a weight fingerprint."""

    bf16: str
    fp16: str


class BaseEntry(TypedDict):
    """The base: Hub id, commit sha, weight digests, parameters that no checkpoint has, licence."""

    id: str | None
    revision: str | None
    fingerprint: Digests | None
    fresh: list[str]
    license: NotRequired[str]


class Parameters(TypedDict):
    """How many values were trained, and how many the base has."""

    trained: Annotated[int, Ge(0), Le(2**60)]
    total: Annotated[int, Ge(0), Le(2**60)]


# "class" is no name for a field of a class.
ModelEntry = TypedDict(
    "ModelEntry",
    {
        "class": str | None,
        "task": str | None,
        "labels": dict[str, str] | None,
        "config": dict[str, Any],
        "pipeline": NotRequired[dict[str, Any]],  # of sentence-transformers
    },
)


class EffectEntry(TypedDict):
    """What the methods change in the model's answers, by the artifact's probe.

    ``probe`` is its file; where there is none ``note`` says why. ``kl`` (nats) and ``changed`` (a
    share) compare the trained model's distributions with those of its head on the base's trunk,
    ``distance`` their answers, relative to their size; ``nil`` says that there is no difference.
    ``dtype`` is the one it answered in; ``unseen`` names saved tensors that no input of the probe
    reaches, as those of an expert that got no token.
    """

    probe: str | None
    note: NotRequired[Annotated[str, MaxLen(600)]]
    kl: NotRequired[Annotated[float, Ge(0)] | None]
    changed: NotRequired[Annotated[float, Ge(0), Le(1)] | None]
    distance: NotRequired[Annotated[float, Ge(0)]]
    nil: NotRequired[bool]
    dtype: NotRequired[str]
    unseen: NotRequired[list[str]]
