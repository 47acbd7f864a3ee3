"""The manifest ``ftplug.json``: what an artifact is, what it was made on, and how to check it."""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, cast

from annotated_types import Ge, Le, MinLen
from typing_extensions import TypedDict  # pydantic needs it before Python 3.12

from ftplug import structure
from ftplug.artifacts.author import Author
from ftplug.artifacts.digests import FileEntry, check_files
from ftplug.artifacts.file_names import check_file_name
from ftplug.artifacts.json_values import json_values
from ftplug.artifacts.migrations import SCHEMA, migrated_manifest
from ftplug.base.fingerprint import Fingerprint
from ftplug.context import WEIGHTS
from ftplug.errors import ArtifactError, MethodError
from ftplug.files.staged import finish_interrupted

if TYPE_CHECKING:
    import pydantic
    from torch import nn

    from ftplug.attaching.attachment import Attachment
    from ftplug.base.inspecting import Base
    from ftplug.host import Host

MANIFEST = "ftplug.json"
LARGEST = 16 * 2**20  # bytes of a manifest: it holds a config and a list of files
_LIBRARIES = ("ftplug", "torch", "transformers", "peft", "accelerate", "safetensors")


class MethodEntry(TypedDict):
    """One method of the run, the distribution it came from, and which files it wrote."""

    name: str
    settings: dict[str, Any]
    distribution: str | None
    version: str | None
    files: NotRequired[list[str]]


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
    },
)


@dataclass(frozen=True)
class Manifest:
    """Everything ``ftplug.json`` holds, in the order it is written.

    ``model``: class, task, labels and the whole config. ``files``: every weight, config and
    tokenizer file; the card may be edited freely. ``training``: data, metrics, baselines,
    hyperparameters, seed, steps, seconds, hardware, peak memory, history; as ``also`` the methods
    that ran and are not needed to load it. ``author``: what no run can know.
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
        return {WEIGHTS, *(name for method in self.methods for name in method.get("files", ()))}

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
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False, default=str)
        # Half a surrogate pair is no UTF-8: written as JSON's own escape it comes back as it was.
        return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        path.write_text(self.text(), encoding="utf-8")

    def verify_files(self, directory: Path) -> None:
        """Check presence, size and sha256 of every listed file."""
        check_files(directory, self.files, way_out="copy or pull it again")


def make_manifest(
    model: nn.Module,
    attached: Attachment,
    *,
    training: Mapping[str, Any] | None = None,
    files: Mapping[str, FileEntry] | None = None,
    written: Mapping[str, Sequence[str]] | None = None,
    author: Author | None = None,
) -> Manifest:
    """Return the manifest of a model that carries a method.

    ``written`` says, by method, which of the files that method wrote; None in a checkpoint.
    """
    config = structure.pretrained(model).config
    classifies = "classification" in str(attached.context.task)
    labels = getattr(config, "id2label", None) if classifies else None
    return Manifest(
        methods=_method_entries(attached, written),
        train_head=attached.train_head,
        base=_base_entry(attached.base),
        model={
            "class": attached.context.model_class,
            "task": attached.context.task,
            "labels": {str(k): str(v) for k, v in labels.items()} if labels else None,
            "config": _portable(config),
        },
        parameters={"trained": attached.plan.trained_count(model), "total": attached.base.total},
        versions=dict(_versions()),
        files=dict(files or {}),
        training=json_values(training or _logged(attached)) | _transient(attached.host),
        author=author or {},
    )


def _method_entries(
    attached: Attachment, written: Mapping[str, Sequence[str]] | None
) -> list[MethodEntry]:
    entries = cast("list[MethodEntry]", attached.host.spec(transient=False))
    if written is not None:
        for entry in entries:
            entry["files"] = sorted(written.get(entry["name"], ()))
    return entries


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


def _portable(config: Any) -> dict[str, Any]:
    """Return the config as JSON values, without the base's path and what loading decides."""
    values = json.loads(config.to_json_string(use_diff=True))
    for name in ("_name_or_path", "dtype", "transformers_version", "quantization_config"):
        values.pop(name, None)
    return dict(values)


def read_manifest(directory: Path, name: str = MANIFEST) -> Manifest:
    """Read and check a manifest, every failure is an ArtifactError."""
    path = directory / name
    if not directory.is_dir():
        raise ArtifactError(f"{directory}: no such folder")
    if not path.is_file():
        finish_interrupted(directory)
    if not path.is_file():
        raise ArtifactError(f"{directory}: no {name}: not an ftplug artifact, or an incomplete one")
    if (size := path.stat().st_size) > LARGEST:
        raise ArtifactError(f"{path}: {size:,} bytes are too many for a manifest")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise ArtifactError(f"{path}: not readable as JSON: {error}") from error
    return _checked(path, content)


def _checked(path: Path, content: Any) -> Manifest:
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: not a manifest: a JSON object is expected")
    try:
        content = migrated_manifest(content)
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
