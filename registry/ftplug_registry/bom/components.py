"""What an artifact is made of: its files, its base, its data and the libraries it was made with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    Property,
    XsUri,
)
from cyclonedx.model.component import Component, ComponentType
from packageurl import PackageURL

from ftplug.artifacts.manifest import Manifest
from ftplug_registry.bom.model_card import DATA, text
from ftplug_registry.card.metadata import base_id, is_hub_id, section

if TYPE_CHECKING:
    from cyclonedx.model.license import License

HUB = "https://huggingface.co"
ARTIFACT = "artifact"
BASE = "base"
# Their own words (PyPI): a manifest records names and versions.
_LICENSES = {
    "ftplug": "Apache-2.0",
    "torch": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    "peft": "Apache-2.0",
    "accelerate": "Apache-2.0",
    "safetensors": "Apache-2.0",
}


def artifact_component(manifest: Manifest, repo_id: str | None) -> Component:
    """Return the component that the document is about, with every file that the manifest lists."""
    group, _, name = (repo_id or "").rpartition("/")
    license = manifest.author.get("license") or manifest.base.get("license")
    methods = "-".join(text(method["name"]) for method in manifest.methods)
    base = text(base_id(_values(manifest)) or manifest.model["class"] or "model")
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ARTIFACT,
        group=group or None,
        name=name or f"{base.rpartition('/')[2]}-{methods}",
        licenses=_licenses(license),
        external_references=_pages(repo_id),
        components=[_file(name, entry) for name, entry in sorted(manifest.files.items())],
    )


def parts(manifest: Manifest) -> list[Component]:
    """Return what the artifact depends on: its base, its data, libraries and plugins."""
    return [_base(manifest), *_data(manifest), *_libraries(manifest)]


def library(name: str, version: str | None, *, ref: str | None = None) -> Component:
    """Return a distribution from PyPI."""
    return Component(
        type=ComponentType.LIBRARY,
        bom_ref=ref or f"pypi:{name}",
        name=name,
        version=version,
        licenses=_licenses(_LICENSES.get(name)),
        purl=PackageURL("pypi", name=name, version=version),
    )


def _file(name: str, entry: Mapping[str, Any]) -> Component:
    return Component(
        type=ComponentType.FILE,
        bom_ref=f"file:{name}",
        name=name,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=entry["sha256"])],
        properties=[Property(name="ftplug:size", value=str(entry["size"]))],
    )


def _base(manifest: Manifest) -> Component:
    base, known = manifest.base, base_id(_values(manifest))
    revision = text(base.get("revision")) or None if base.get("id") else None
    group, _, name = (known or "").rpartition("/")
    digests: Mapping[str, Any] = base.get("fingerprint") or {}
    return Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=BASE,
        group=group or None,
        name=name or text(manifest.model["class"]) or "model without a Hub id",
        version=revision,
        licenses=_licenses(base.get("license")),
        purl=_model_purl(known, revision),
        external_references=_pages(known),
        properties=[
            Property(name=f"ftplug:fingerprint:{kind}", value=text(digest))
            for kind, digest in digests.items()
        ],
    )


def _data(manifest: Manifest) -> Iterator[Component]:
    facts = section(manifest.training, "data")
    for part in ("", "eval_"):
        if name := text(facts.get(f"{part}dataset")):
            revision = text(facts.get(f"{part}revision")) or None
            on_hub = revision is not None and is_hub_id(name)
            yield Component(
                type=ComponentType.DATA,
                bom_ref=DATA + part,
                name=name,
                version=revision,
                external_references=_pages(f"datasets/{name}") if on_hub else [],
            )


def _libraries(manifest: Manifest) -> Iterator[Component]:
    versions: dict[str, str | None] = {text(n): text(v) for n, v in manifest.versions.items()}
    for method in manifest.methods:
        if name := text(method["distribution"]):
            versions.setdefault(name, text(method["version"]) or None)
    for name, version in sorted(versions.items()):
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            yield library(name, version)


def _licenses(name: str | None) -> list[License]:
    """Return a licence by its SPDX id where it is one (in any case), else by what it is called."""
    return [LicenseFactory().make_from_string(text(name))] if text(name) else []


def _pages(repo_id: str | None) -> list[ExternalReference]:
    if not repo_id or not re.fullmatch(r"[\w./-]+", repo_id, re.ASCII):
        return []
    return [ExternalReference(type=ExternalReferenceType.WEBSITE, url=XsUri(f"{HUB}/{repo_id}"))]


def _model_purl(repo_id: str | None, revision: str | None) -> PackageURL | None:
    if repo_id is None:
        return None
    group, _, name = repo_id.rpartition("/")
    return PackageURL("huggingface", namespace=group or None, name=name, version=revision)


def _values(manifest: Manifest) -> dict[str, Any]:
    return vars(manifest)
