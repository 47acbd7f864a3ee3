"""The names of files that an artifact may list: inside its folder, visible, never a pickle."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ftplug.errors import ArtifactError
from ftplug.files.staged import OURS

_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"}


def check_file_name(path: Path, name: str) -> None:
    """Refuse a listed file that lies outside of the folder, is hidden, or is a pickle."""
    file = PurePosixPath(name)
    inside = file.parts and not file.is_absolute() and ".." not in file.parts
    plain = name.isprintable() and not set(name) & set("\\:") and len(name.encode()) <= 255
    if not inside or not plain or file.as_posix() != name:
        raise ArtifactError(f"{path}: file name {name[:80]!r} leaves the artifact's folder")
    if any(part.startswith(".") for part in file.parts):
        raise ArtifactError(f"{path}: file {name!r} is hidden: no artifact has such files")
    if any(part.lower().startswith(OURS) for part in file.parts):
        raise ArtifactError(f"{path}: file {name!r} is named as what an interrupted save leaves")
    if is_pickle(name):
        raise ArtifactError(f"{path}: file {name!r} is a pickle")


def is_config(name: str) -> bool:
    """Whether a file of an artifact is a config: what libraries read before any weights."""
    file = PurePosixPath(name).name
    return file == "config.json" or file.endswith("_config.json")


def is_pickle(name: str) -> bool:
    """Whether a file of this name is a pickle, which runs code when it is read."""
    return PurePosixPath(name).suffix.lower() in _PICKLES
