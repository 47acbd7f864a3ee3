"""The manifest ``ftplug.json``: what an artifact is, what it was made on, and how to check it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.attachment import require_attachment
from ftplug.errors import ArtifactError
from ftplug.files import sha256
from ftplug.fingerprint import Fingerprint

if TYPE_CHECKING:
    from torch import nn

MANIFEST = "ftplug.json"
SCHEMA = 1
_LIBRARIES = ("ftplug", "torch", "transformers", "peft", "accelerate", "safetensors")

# Schema n -> a function that turns such a manifest into one of schema n + 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


@dataclass(frozen=True)
class Manifest:
    """Everything ``ftplug.json`` holds, in the order it is written.

    ``methods``: name, settings, distribution and version of each. ``base``: Hub id, commit sha,
    weight fingerprint, and the names of the parameters that are in no checkpoint (``fresh``).
    ``files``: size and sha256 of every weight and config file; the card may be edited freely.
    ``training``: data, metrics, hyperparameters, seed, steps, seconds, hardware, peak memory.
    """

    methods: list[dict[str, Any]]
    train_head: bool
    base: dict[str, Any]
    model: dict[str, Any]
    parameters: dict[str, int]
    versions: dict[str, str]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def fingerprint(self) -> Fingerprint | None:
        """The base's weight fingerprint, where it has one."""
        stored = self.base.get("fingerprint")
        return Fingerprint(**stored) if stored else None

    @property
    def method_names(self) -> str:
        """The methods' names, for messages."""
        return " + ".join(method["name"] for method in self.methods)

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str)
        path.write_text(text + "\n", encoding="utf-8")

    def verify_files(self, directory: Path) -> None:
        """Check presence, size and sha256 of every listed file."""
        for name, expected in self.files.items():
            path = directory / name
            if not path.is_file():
                raise ArtifactError(f"{directory}: {name} is missing: copy or pull it again")
            size = path.stat().st_size
            if size != expected["size"]:
                raise ArtifactError(
                    f"{path}: {size} bytes, but the manifest says {expected['size']}: "
                    "truncated or altered"
                )
            if sha256(path) != expected["sha256"]:
                raise ArtifactError(f"{path}: sha256 differs from the manifest's: altered")


def describe(
    model: nn.Module,
    *,
    training: Mapping[str, Any] | None = None,
    files: Mapping[str, dict[str, Any]] | None = None,
) -> Manifest:
    """Return the manifest of a model that carries a method."""
    attached = require_attachment(model)
    base, config = attached.base, structure.pretrained(model).config
    classifies = "classification" in str(attached.context.task)
    labels = getattr(config, "id2label", None) if classifies else None
    return Manifest(
        methods=attached.host.spec(),
        train_head=attached.train_head,
        base={
            "id": base.id,
            "revision": base.revision,
            "fingerprint": base.fingerprint.as_dict() if base.fingerprint else None,
            "fresh": list(base.fresh),
        },
        model={
            "class": attached.context.model_class,
            "task": attached.context.task,
            "labels": {str(k): v for k, v in labels.items()} if labels else None,
            "vocab_size": getattr(config, "vocab_size", None),
        },
        parameters={"trained": attached.plan.trained_count(model), "total": base.total},
        versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
        files=dict(files or {}),
        training=dict(training or {}),
    )


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest:
    """Read and check a manifest, migrating an older schema; every failure is an ArtifactError."""
    path = directory / name
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: no such folder")
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {name}: not an ftplug artifact, or an incomplete one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Manifest:
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a manifest: a JSON object is expected")
    schema = content.get("schema")
    while isinstance(schema, int) and schema in MIGRATIONS:
        content = MIGRATIONS[schema](content)
        schema = content["schema"]
    if schema != SCHEMA:
        raise ArtifactError(
            f"{path}: schema {schema!r} is unknown to this ftplug, which reads {SCHEMA}: upgrade it"
        )
    try:
        manifest = Manifest(**{k: v for k, v in content.items() if k in _SHAPE})
        _check_shape(manifest)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{path}: malformed manifest: {error}") from error
    return manifest


_SHAPE: dict[str, type] = {
    "methods": list,
    "train_head": bool,
    "base": dict,
    "model": dict,
    "parameters": dict,
    "versions": dict,
    "files": dict,
    "training": dict,
    "schema": int,
}


def _check_shape(manifest: Manifest) -> None:
    for name, kind in _SHAPE.items():
        if not isinstance(getattr(manifest, name), kind):
            raise ValueError(f"{name!r} must be a {kind.__name__}")
    for method in manifest.methods:
        if not isinstance(method["name"], str) or not isinstance(method["settings"], dict):
            raise ValueError("each method needs a name and settings")
    if not isinstance(manifest.base.get("fresh", []), list):
        raise ValueError("'base.fresh' must be a list")
    if not manifest.methods:
        raise ValueError("it names no method")
    for name, entry in manifest.files.items():
        _check_file(name, entry)
    _ = manifest.fingerprint


def _check_file(name: str, entry: Mapping[str, Any]) -> None:
    """A listed file lies inside the folder and is never a pickle."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not name:
        raise ValueError(f"file name {name!r} leaves the artifact's folder")
    if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}:
        raise ValueError(f"file {name!r} is a pickle")
    if not isinstance(entry["size"], int) or len(entry["sha256"]) != 64:
        raise ValueError(f"file {name!r} needs size and sha256")
