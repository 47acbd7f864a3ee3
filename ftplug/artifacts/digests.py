"""Sizes and digests of files, as the manifest of an artifact or a checkpoint lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Len
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug.errors import ArtifactError, one_line
from ftplug.files.hashed import HashedFile

_COPY = "copy or pull it again"


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
        with checked_file(directory, name, expected, way_out=way_out):
            pass  # the end of the block reads it


@contextmanager
def checked_file(
    directory: Path, name: str, expected: FileEntry, *, way_out: str = _COPY
) -> Iterator[HashedFile]:
    """Open a listed file: what the block reads are the bytes that were checked, or this raises.

    An ArtifactError of the block waits until it is known whether the file was altered.
    """
    with sized_file(directory, name, expected, way_out=way_out) as file:
        refusal = None
        try:
            try:
                yield file
            except ArtifactError as error:
                refusal = error
            digest = file.sha256()
        except OSError as error:
            raise ArtifactError(f"{file.path}: not readable: {one_line(error)}") from error
        file.require_unchanged()
        if digest != expected["sha256"]:
            raise ArtifactError(f"{file.path}: sha256 differs from the manifest's: altered")
        if refusal:
            raise refusal


@contextmanager
def sized_file(
    directory: Path, name: str, expected: FileEntry, *, way_out: str = _COPY
) -> Iterator[HashedFile]:
    """Open a listed file and check its size."""
    path = directory / name
    try:
        file = HashedFile(path)
    except PermissionError as error:
        raise ArtifactError(f"{path}: not readable: {one_line(error)}") from error
    except (OSError, ArtifactError):  # none, or something else than a file
        raise ArtifactError(f"{directory}: {name} is missing: {way_out}") from None
    with file:
        if file.size != expected["size"]:
            raise ArtifactError(
                f"{path}: {file.size} bytes, but the manifest says {expected['size']}: "
                "truncated or altered"
            )
        yield file
