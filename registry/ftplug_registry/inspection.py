"""Checks for what must never be published: pickles, strange files, links out, tokens and keys."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path, PurePosixPath

from ftplug.artifacts.file_names import is_pickle
from ftplug.errors import RegistryError
from ftplug_registry.credentials import credential_in, decoded

Content = bytes | Path

# Pictures by the bytes they begin with; SVG is text.
_MAGIC = {
    ".png": b"\x89PNG",
    ".jpg": b"\xff\xd8",
    ".jpeg": b"\xff\xd8",
    ".gif": b"GIF8",
    ".webp": b"RIFF",
}
PICTURES = {*_MAGIC, ".svg"}
# What save() and the tokenizers of transformers write.
_OF_MODELS = {".safetensors", ".json", ".jsonl", ".txt", ".md", ".jinja", ".model", ".tiktoken"} | {
    ".vocab",
    ".bpe",
}


def inspect(directory: Path, name: str, content: Content) -> None:
    """Refuse what is no tensor, text or picture, links out of the folder, and tokens or keys."""
    if isinstance(content, Path):
        _check_link(directory, name, content)
    if is_pickle(name) or (isinstance(content, Path) and _holds_pickle(content)):
        raise RegistryError(f"{directory}: {name} is a pickle, which runs code when it is read")
    kind = PurePosixPath(name).suffix.lower()
    if kind not in _OF_MODELS | PICTURES:
        raise RegistryError(
            f"{directory}: {name} is neither tensors nor text of a tokenizer: an artifact holds "
            f"{', '.join(sorted(_OF_MODELS))} and the card's pictures"
        )
    text = _text_of(directory, name, content, kind)
    if credential := credential_in(text) or credential_in(name):
        raise RegistryError(
            f"{directory}: {name} holds {credential}: remove it, and revoke it if it was shared "
            "(a value of your environment that is no secret: unset it for this command)"
        )


def _text_of(directory: Path, name: str, content: Content, kind: str) -> str:
    """Return what is readable of a file: of tensors the header, of a picture its kind alone."""
    if kind == ".safetensors":
        return _header(directory, name)
    data = content if isinstance(content, bytes) else content.read_bytes()
    if magic := _MAGIC.get(kind):
        if not data.startswith(magic):
            raise RegistryError(f"{directory}: {name} is not a picture of the kind its name says")
        return ""
    text = decoded(data)
    if kind == ".svg" and "<script" in text.lower():
        raise RegistryError(f"{directory}: {name} is a picture with a script: draw it as a PNG")
    return text


def _header(directory: Path, name: str) -> str:
    """Return a safetensors header, of which the metadata are free text."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(directory / name, "pt") as file:
            return json.dumps(file.metadata() or {}, ensure_ascii=False) + " ".join(file.keys())
    except (SafetensorError, OSError) as error:
        raise RegistryError(f"{directory}: {name} is no safetensors file: {error}") from error


def _holds_pickle(path: Path) -> bool:
    """Whether the first bytes are those of a pickle or of torch's archive, whatever the name."""
    with path.open("rb") as file:
        start = file.read(2)
    return (start[:1] == b"\x80" and b"\x02" <= start[1:] <= b"\x05") or zipfile.is_zipfile(path)


def _check_link(directory: Path, name: str, path: Path) -> None:
    """A link may lead within the folder or within a Hub cache, where every file is one."""
    real = Path(os.path.realpath(path))
    roots = [Path(os.path.realpath(directory))]
    if roots[0].parent.name == "snapshots":
        roots.append(roots[0].parent.parent / "blobs")
    if not any(real.is_relative_to(root) for root in roots):
        raise RegistryError(f"{directory}: {name} is a link out of the folder: copy the file there")
