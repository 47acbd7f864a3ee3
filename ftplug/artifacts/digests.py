"""Sizes and digests of files, as the manifest of an artifact or a checkpoint lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Len
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.errors import ArtifactError


def sha256(path: Path) -> str:
    """Return the hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileEntry(TypedDict):
    """Size in bytes and sha256 of a file."""

    size: Annotated[int, Ge(0)]
    sha256: Annotated[str, Len(64, 64)]


def file_entry(path: Path) -> FileEntry:
    """Return size and digest of a file, as the manifest lists it."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def check_files(directory: Path, files: Mapping[str, FileEntry], *, way_out: str) -> None:
    """Check presence, size and sha256 of the files that a manifest lists."""
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            raise ArtifactError(f"{directory}: {name} is missing: {way_out}")
        size = path.stat().st_size
        if size != expected["size"]:
            raise ArtifactError(
                f"{path}: {size} bytes, but the manifest says {expected['size']}: "
                "truncated or altered"
            )
        if sha256(path) != expected["sha256"]:
            raise ArtifactError(f"{path}: sha256 differs from the manifest's: altered")
