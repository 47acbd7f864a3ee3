"""The bill of materials as CycloneDX 1.6 JSON: made of the manifest alone, and validated."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import uuid
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.manifest import Manifest
from ftplug.errors import FtplugError
from ftplug.files.credentials import masked
from ftplug_registry.bom.model_card import model_card

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom

BOM = "ftplug_bom.cdx.json"  # the ending that CycloneDX gives its JSON files
_MISSING = "a bill of materials needs a library: pip install 'ftplug[bom]'"


def can_make_bom() -> bool:
    """Whether the libraries of the extra ``[bom]`` are installed; none of them is imported."""
    return all(importlib.util.find_spec(name) for name in ("cyclonedx", "jsonschema"))


def bom(manifest: Manifest, repo_id: str | None = None) -> str:
    """Return the artifact's bill of materials; equal for equal manifests, and without a time.

    ``repo_id`` names the artifact where it is published; else its methods and its base do. Raises
    :class:`FtplugError` where ``cyclonedx-python-lib`` is not installed, and where what the
    manifest says makes no valid document.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
        from cyclonedx.validation.json import JsonStrictValidator  # noqa: F401  # half installed
    except ImportError as error:
        raise FtplugError(_MISSING) from error
    from ftplug_registry.bom.components import artifact_component, parts

    artifact = artifact_component(manifest, repo_id)
    document = json.loads(
        JsonV1Dot6(_document(manifest, artifact, parts(manifest))).output_as_string()
    )
    del document["metadata"]["timestamp"]  # the library's own, of now
    document["metadata"]["component"]["modelCard"] = model_card(manifest)
    text = masked(json.dumps(document, indent=2, sort_keys=True)) + "\n"
    _require_valid(text)
    return text


def _document(manifest: Manifest, artifact: Any, others: list[Any]) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.tool import ToolRepository

    from ftplug import __version__
    from ftplug_registry.bom.components import library

    tool = library("ftplug", __version__, ref="tool:ftplug")
    made = Bom(
        serial_number=serial_number(manifest),
        metadata=BomMetaData(component=artifact, tools=ToolRepository(components=[tool])),
        components=others,
    )
    made.register_dependency(artifact, others)
    return made


def serial_number(manifest: Manifest) -> uuid.UUID:
    """Return the document's number: it follows from the manifest's sha256."""
    digest = hashlib.sha256(manifest.text().encode("utf-8")).hexdigest()
    return uuid.uuid5(uuid.NAMESPACE_OID, f"ftplug.json sha256:{digest}")


def _require_valid(text: str) -> None:
    from cyclonedx.exception import MissingOptionalDependencyException
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    try:
        error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    except MissingOptionalDependencyException as missing:
        raise FtplugError(_MISSING) from missing
    if error is not None:
        raise FtplugError(f"the bill of materials would not be valid CycloneDX 1.6: {error}")
