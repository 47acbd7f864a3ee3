"""What a place holds of an artifact: its small files, and what is listed of the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ftplug.artifacts.card import CARD
from ftplug.artifacts.manifest import LARGEST, MANIFEST
from ftplug.artifacts.signatures import PROVENANCE, SIGNATURE
from ftplug_registry.signing.bundles import LARGEST as LARGEST_SIGNATURE

LARGEST_CARD = 2**20  # bytes
# What is read of an artifact, and up to how many bytes: never a weight.
READ: Mapping[str, int] = {
    MANIFEST: LARGEST,
    CARD: LARGEST_CARD,
    SIGNATURE: LARGEST_SIGNATURE,
    PROVENANCE: LARGEST_SIGNATURE,
}


@dataclass(frozen=True)
class Listed:
    """A file by its size in bytes and, where the place tells it, its sha256."""

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Version:
    """A tag or a branch, and the commit that it stands for."""

    name: str
    sha: str
    kind: str = "tag"


@dataclass(frozen=True)
class Signature:
    """What is known of who signed an artifact.

    ``state`` is ``unsigned``, ``present`` (there, and not checked by who made the page),
    ``checked`` (by a key that the maker of the page trusts), ``unknown`` (whole, by a key that
    nobody vouched for) or ``broken``. ``said`` is a sentence about it.
    """

    state: str = "unsigned"
    said: str = ""


@dataclass(frozen=True)
class Found:
    """An artifact as it lies in a folder or a repository.

    ``files`` are the contents of those of :data:`READ` that are there, ``listed`` are all files;
    None where the place could not be read, which ``remark`` then says. ``date`` is ISO 8601 in UTC.
    ``url`` is its page on a Hub, ``sha`` the commit. Names and remarks may be anybody's text.
    """

    name: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    listed: Mapping[str, Listed] | None = None
    url: str | None = None
    endpoint: str | None = None
    sha: str | None = None
    date: str | None = None
    versions: tuple[Version, ...] = ()
    signature: Signature | None = None
    remark: str | None = None
