"""The manifest ``ftplug.json``: what an artifact is, what it was made on, and how to check it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import MinLen
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug import structure
from ftplug.attachment import require_attachment
from ftplug.errors import ArtifactError
from ftplug.files import FileEntry, sha256
from ftplug.fingerprint import Fingerprint

if TYPE_CHECKING:
    from torch import nn

MANIFEST = "ftplug.json"
SCHEMA = 1
_LIBRARIES = ("ftplug", "torch", "transformers", "peft", "accelerate", "safetensors")

# Schema n -> a function that turns such a manifest into one of schema n + 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class MethodEntry(TypedDict):
    """One method of the run, and the distribution it came from."""

    name: str
    settings: dict[str, Any]
    distribution: str | None
    version: str | None


class Digests(TypedDict):
    """The two digests of a weight fingerprint."""

    bf16: str
    fp16: str


class BaseEntry(TypedDict):
    """The base: Hub id, commit sha, weight digests, parameters that no checkpoint has."""

    id: str | None
    revision: str | None
    fingerprint: Digests | None
    fresh: list[str]


@dataclass(frozen=True)
class Manifest:
    """Everything ``ftplug.json`` holds, in the order it is written.

    ``model``: class, task, labels and the whole config. ``files``: every weight, config and
    tokenizer file; the card may be edited freely. ``training``: data, metrics, hyperparameters,
    seed, steps, seconds, hardware, peak memory.
    """

    methods: Annotated[list[MethodEntry], MinLen(1)]
    train_head: bool
    base: BaseEntry
    model: dict[str, Any]
    parameters: dict[str, int]
    versions: dict[str, str]
    files: dict[str, FileEntry] = field(default_factory=dict)
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
    files: Mapping[str, FileEntry] | None = None,
) -> Manifest:
    """Return the manifest of a model that carries a method."""
    attached = require_attachment(model)
    base, config = attached.base, structure.pretrained(model).config
    classifies = "classification" in str(attached.context.task)
    labels = getattr(config, "id2label", None) if classifies else None
    return Manifest(
        methods=cast("list[MethodEntry]", attached.host.spec()),
        train_head=attached.train_head,
        base={
            "id": base.id,
            "revision": base.revision,
            "fingerprint": _digests(base.fingerprint),
            "fresh": list(base.fresh),
        },
        model={
            "class": attached.context.model_class,
            "task": attached.context.task,
            "labels": {str(k): v for k, v in labels.items()} if labels else None,
            "config": _portable(config),
        },
        parameters={"trained": attached.plan.trained_count(model), "total": base.total},
        versions={name: importlib.metadata.version(name) for name in _LIBRARIES},
        files=dict(files or {}),
        training=dict(training or {}),
    )


def _digests(found: Fingerprint | None) -> Digests | None:
    return {"bf16": found.bf16, "fp16": found.fp16} if found else None


def _portable(config: Any) -> dict[str, Any]:
    """Return the config as JSON values, without the base's path and what loading decides."""
    values = json.loads(config.to_json_string(use_diff=True))
    for name in ("_name_or_path", "dtype", "transformers_version", "quantization_config"):
        values.pop(name, None)
    return dict(values)


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest:
    """Read and check a manifest, migrating an older schema; every failure is an ArtifactError."""
    path = directory / name
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: no such folder")
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {name}: not an ftplug artifact, or an incomplete one")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
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
    import pydantic

    try:
        text = json.dumps(content)  # strict about types, but JSON has no tuples and dataclasses
        manifest: Manifest = pydantic.TypeAdapter(Manifest).validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: malformed manifest: {where}: {first['msg']}") from None
    for name in manifest.files:
        _check_name(path, name)
    return manifest


def _check_name(path: Path, name: str) -> None:
    """A listed file lies inside the folder and is never a pickle."""
    file = PurePosixPath(name)
    if file.is_absolute() or ".." in file.parts or "\\" in name or ":" in name or not name:
        raise ArtifactError(f"{path}: file name {name!r} leaves the artifact's folder")
    if file.suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}:
        raise ArtifactError(f"{path}: file {name!r} is a pickle")
