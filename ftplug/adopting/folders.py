"""The folder that is meant, and a copy of the files in it that can be part of an adapter.

Output folders of training programs hold much beside the adapter: checkpoints, optimizer states,
arguments as pickles. Only what is listed here is ever opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ftplug.artifacts.manifest import MANIFEST
from ftplug.errors import ArtifactError

CONFIG = "adapter_config.json"
CARD = "README.md"
WEIGHTS = ("adapter_model.safetensors", "adapters.safetensors", "adapter.safetensors")
PICKLES = ("adapter_model.bin", "pytorch_adapter.bin")
HEADS = ("head_config.json", "model_head.safetensors")
PICKLED_HEAD = "pytorch_model_head.bin"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model"),
    *("chat_template.jinja", "chat_template.json"),
)
KNOWN = (CONFIG, *WEIGHTS, *PICKLES, *HEADS, PICKLED_HEAD, CARD, *TOKENIZER)
_SMALL = 2**26  # bytes of whatever holds no tensors
_LARGEST_CARD = 2**20
_CHUNK = 2**20


@dataclass(frozen=True)
class Copied:
    """A private copy of an adapter's files, with their sha256 sums; the names of all else."""

    folder: Path
    sha256: dict[str, str]
    strays: tuple[str, ...]


def picked(directory: Path) -> Path:
    """Return the folder of the adapter that is meant: this one, or the only one just below it.

    Raises :class:`ArtifactError` where there are several, naming them.
    """
    if os.path.isfile(directory):
        raise ArtifactError(f"{directory} is a file: name the folder that it lies in")
    if not os.path.isdir(directory):
        raise ArtifactError(f"{directory}: no such folder")
    if (directory / MANIFEST).is_file():
        raise ArtifactError(f"{directory} is an artifact of ftplug already: ftplug.load reads it")
    if (directory / CONFIG).is_file():
        return directory
    below = sorted(
        (p for p in directory.iterdir() if (p / CONFIG).is_file() and not p.is_symlink()), key=_age
    )
    if len(below) == 1:
        return below[0]
    if below:
        shown = ", ".join(path.name for path in below[-8:])
        raise ArtifactError(
            f"{directory} has {len(below)} adapters below it ({shown}) and none of its own: name "
            f"the one that is meant, e.g. the last: {below[-1]}"
        )
    whole = any(directory.glob("model*.safetensors"))
    more = "; it holds a whole model, which from_pretrained reads as it is" if whole else ""
    raise ArtifactError(f"{directory}: no {CONFIG}, so no adapter{more}")


def _age(path: Path) -> tuple[int, str]:
    """Sort checkpoints by their step, behind folders with other names."""
    step = path.name.rpartition("-")[2]
    return (int(step) if step.isdecimal() and len(step) < 12 else -1, path.name)


def copied(directory: Path, target: Path) -> Copied:
    """Copy what can be part of an adapter, each file checked: in this folder, of a sane size."""
    target.mkdir()
    present = sorted(os.listdir(directory))
    sums = {n: _copy(directory, n, target) for n in KNOWN if n in present}
    return Copied(target, sums, tuple(n for n in present if n not in sums))


def _copy(directory: Path, name: str, target: Path) -> str:
    path = directory / name
    real = Path(os.path.realpath(path))
    if not any(real.is_relative_to(place) for place in _places(directory)):
        raise ArtifactError(f"{path} is a link that leads out of its folder: it is not followed")
    if not real.is_file():
        raise ArtifactError(f"{path} is no file")
    limit = _LARGEST_CARD if name == CARD else _SMALL
    if path.suffix not in (".safetensors", ".bin") and (size := real.stat().st_size) > limit:
        raise ArtifactError(f"{path}: {size:,} bytes are too many for it")
    digest = hashlib.sha256()
    try:
        with open(real, "rb") as source, open(target / name, "xb") as copy:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                copy.write(chunk)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be copied: {error}") from error
    return digest.hexdigest()


def _places(directory: Path) -> Iterable[Path]:
    """Yield where the files of a folder may really lie: there, or in the Hub's cache around it."""
    real = Path(os.path.realpath(directory))
    yield real
    if real.parent.name == "snapshots":
        yield real.parent.parent / "blobs"
