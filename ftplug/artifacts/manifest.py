"""The manifest ``ftplug.json``: what an artifact is, what it was made on, and how to check it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from annotated_types import MinLen

from ftplug import structure
from ftplug.artifacts.author import Author
from ftplug.artifacts.contents import Contents
from ftplug.artifacts.digests import FileEntry
from ftplug.artifacts.entries import (
    BaseEntry,
    Digests,
    EffectEntry,
    MethodEntry,
    ModelEntry,
    Parameters,
)
from ftplug.artifacts.file_names import check_file_name
from ftplug.artifacts.json_values import json_values
from ftplug.artifacts.migrations import SCHEMA, migrated_manifest
from ftplug.artifacts.strangers.agreement import ADAPTER_CONFIG, check_agreement
from ftplug.artifacts.strangers.patterns import note_names
from ftplug.base.fingerprint import Fingerprint
from ftplug.base.own_config import portable_config
from ftplug.context import WEIGHTS
from ftplug.effect.probe import FILE as PROBE
from ftplug.errors import ArtifactError, MethodError
from ftplug.files.staged import require_whole

if TYPE_CHECKING:
    import pydantic
    from torch import nn

    from ftplug.attaching.attachment import Attachment
    from ftplug.base.inspecting import Base
    from ftplug.host import Host

MANIFEST = "ftplug.json"
LARGEST = 16 * 2**20  # bytes of a manifest: it holds a config and a list of files
_LIBRARIES = ("ftplug", "torch", "transformers", "peft", "accelerate", "safetensors")


@dataclass(frozen=True)
class Manifest:
    """Everything ``ftplug.json`` holds, in the order it is written.

    ``model``: class, task, labels and the whole config. ``files``: every weight, config and
    tokenizer file; the card may be edited freely. ``training``: data, metrics, baselines,
    hyperparameters, seed, steps, seconds, hardware, peak memory, history; as ``also`` the methods
    that ran and are not needed to load it. ``author``: what no run can know. ``card``: the sha256
    of a card that its author wrote and published with it: the next push knows it again. ``effect``:
    what the methods change in the answers; None where nothing was asked (a checkpoint, an artifact
    of an older version).
    """

    methods: Annotated[list[MethodEntry], MinLen(1)]
    train_head: bool
    base: BaseEntry
    model: ModelEntry
    parameters: Parameters
    versions: dict[str, str]
    files: dict[str, FileEntry] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    author: Author = field(default_factory=Author)
    card: str | None = None
    effect: EffectEntry | None = None
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

    def weight_files(self) -> set[str]:
        """Return the files that go when another artifact takes this one's place.

        What its methods and the host wrote; all else (a tokenizer's files) belongs to the model.
        """
        return {
            WEIGHTS,
            PROBE,
            *(name for method in self.methods for name in method.get("files", ())),
        }

    @property
    def also(self) -> list[Mapping[str, Any]]:
        """What ran beside the methods and trained nothing, by name and settings."""
        also = self.training.get("also")
        return [
            entry
            for entry in (also if isinstance(also, list) else ())
            if isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("settings"), dict)
        ]

    def text(self) -> str:
        """Return the manifest as JSON, the content of ``ftplug.json``."""
        content = {k: v for k, v in asdict(self).items() if k not in ("card", "effect") or v}
        text = json.dumps(content, indent=2, ensure_ascii=False, default=str)
        # Half a surrogate pair is no UTF-8: written as JSON's own escape it comes back as it was.
        return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_text(self.text(), encoding="utf-8")

    def verify_files(self, directory: Path, *, tensors_later: bool = False) -> Contents:
        """Check every listed file (there, size, sha256), and that peft's config says the same."""
        contents = Contents(directory, self.files, tensors_later=tensors_later)
        written = contents.config(ADAPTER_CONFIG) if ADAPTER_CONFIG in self.files else None
        check_agreement(self.methods, self.base, written, directory)
        return contents


def make_manifest(
    model: nn.Module,
    attached: Attachment,
    *,
    training: Mapping[str, Any] | None = None,
    files: Mapping[str, FileEntry] | None = None,
    written: Mapping[str, Sequence[str]] | None = None,
    author: Author | None = None,
    effect: EffectEntry | None = None,
) -> Manifest:
    """Return the manifest of a model that carries a method.

    ``written`` says, by method, which of the files that method wrote; None in a checkpoint.
    """
    config = structure.pretrained(model).config
    classifies = "classification" in str(attached.context.task)
    labels = getattr(config, "id2label", None) if classifies else None
    model_entry: ModelEntry = {
        "class": attached.context.model_class,
        "task": attached.context.task,
        "labels": {str(k): str(v) for k, v in labels.items()} if labels else None,
        "config": portable_config(config, attached.base.use_cache),
    }
    if pipeline := structure.pipeline_of(model):
        model_entry["pipeline"] = pipeline
    return Manifest(
        methods=_method_entries(model, attached, written),
        train_head=attached.train_head,
        base=_base_entry(attached.base),
        model=model_entry,
        parameters={"trained": attached.plan.trained_count(model), "total": attached.base.total},
        versions=dict(_versions()),
        files=dict(files or {}),
        training=json_values(training or _logged(attached)) | _transient(attached.host),
        author=author or {},
        effect=effect,
    )


def _method_entries(
    model: nn.Module, attached: Attachment, written: Mapping[str, Sequence[str]] | None
) -> list[MethodEntry]:
    spec = attached.host.spec(transient=False)
    note_names(spec, attached.host.methods, model)
    for entry in spec if written is not None else ():
        entry["files"] = sorted((written or {}).get(entry["name"], ()))
    return cast("list[MethodEntry]", spec)


def _logged(attached: Attachment) -> dict[str, Any]:
    """Return what methods logged in a hand-written loop, as a run's history has it."""
    scalars = getattr(attached.facts.surroundings, "scalars", ())
    return {"history": {"train": list(scalars)}} if scalars else {}


def _transient(host: Host) -> dict[str, Any]:
    """Return the methods of a run that train nothing, as its record names them."""
    also = [
        {"name": entry["name"], "settings": entry["settings"]}
        for entry in host.spec(transient=True)
    ]
    return {"also": also} if also else {}


@functools.cache
def _versions() -> dict[str, str]:
    """Return the libraries' versions; each look parses all of a distribution's metadata."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _base_entry(base: Base) -> BaseEntry:
    entry: BaseEntry = {
        "id": base.id,
        "revision": base.revision,
        "fingerprint": _digests(base.fingerprint),
        "fresh": list(base.fresh),
    }
    if base.license:
        entry["license"] = base.license
    return entry


def _digests(fingerprint: Fingerprint | None) -> Digests | None:
    return {"bf16": fingerprint.bf16, "fp16": fingerprint.fp16} if fingerprint else None


def read_manifest(directory: Path, name: str = MANIFEST, *, plugins: bool = True) -> Manifest:
    """Read and check a manifest, every failure is an ArtifactError.

    ``plugins=False`` imports none: methods of an older schema stay as they were recorded.
    """
    path = directory / name
    if not os.path.isdir(directory):
        raise ArtifactError(f"{directory}: no such folder")
    require_whole(directory)
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {name}: not an ftplug artifact, or an incomplete one")
    if (size := path.stat().st_size) > LARGEST:
        raise ArtifactError(f"{path}: {size:,} bytes are too many for a manifest")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from error
    return parse_manifest(content, path, plugins=plugins)


def parse_manifest(content: bytes, path: Path, *, plugins: bool = True) -> Manifest:
    """Return the manifest that a file's content is; ``path`` names it in what is refused.

    Raises :class:`ArtifactError` as :func:`read_manifest` does, which says what ``plugins`` means.
    """
    try:
        said = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from error
    return _checked(path, said, plugins=plugins)


def _checked(path: Path, content: Any, *, plugins: bool) -> Manifest:
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a manifest: a JSON object is expected")
    try:
        content = migrated_manifest(content, plugins=plugins)
    except MethodError as error:  # a setting that moved, with a value that means nothing
        raise ArtifactError(f"{path}: {error}") from error
    if (schema := content.get("schema")) != SCHEMA:
        raise ArtifactError(
            f"{path}: schema {schema!r} is unknown to this ftplug, which reads {SCHEMA}: upgrade it"
        )
    import pydantic

    try:
        text = json.dumps(content)  # strict about types, but JSON has no tuples and dataclasses
        manifest = _adapter().validate_json(text, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{path}: malformed manifest: {where}: {first['msg']}") from None
    for name in manifest.files:
        check_file_name(path, name)
    return manifest


@functools.cache
def _adapter() -> pydantic.TypeAdapter[Manifest]:
    """Return what validates manifests; building it takes milliseconds."""
    import pydantic

    return pydantic.TypeAdapter(Manifest)
