"""A page about an artifact: read from its manifest alone, nothing else is fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ftplug.artifacts.effects.entry import in_words
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.methods import methods_of, writer
from ftplug.artifacts.registries import is_published
from ftplug.errors import FtplugError
from ftplug.method import settings_to_show
from ftplug_registry.bom.document import bom
from ftplug_registry.card.metadata import weights
from ftplug_registry.hub import Hub
from ftplug_registry.pulling.fetching import signed_manifest_at
from ftplug_registry.signing.checking import Demand, Signed, check_artifact


def show(
    artifact: str | Path, revision: str | None = None, *, hub: Hub | None = None
) -> dict[str, Any]:
    """Return the manifest of a folder or of ``org/name`` as JSON values, and where it came from.

    ``installed`` tells whether every method of it can be loaded here; ``missing`` says what not.
    ``signature`` is who signed the manifest, verified; None without a signature. The other files
    are not looked at: that is for ``verify``.
    """
    manifest, where, sha, signed = _located(artifact, revision, hub=hub)
    try:
        methods_of(manifest, Path(where))
        missing = None
    except FtplugError as error:
        missing = str(error)
    return {
        "artifact": where,
        "sha": sha,
        "installed": missing is None,
        "missing": missing,
        "signature": signed.as_json() | {"said": signed.said()} if signed else None,
        "bytes": sum(entry["size"] for entry in manifest.files.values()),
        **asdict(manifest),
    }


def bill_of_materials(
    artifact: str | Path, revision: str | None = None, *, hub: Hub | None = None
) -> str:
    """Return CycloneDX 1.6 as JSON, of the manifest of a folder or of ``org/name``.

    No plugin is imported. Raises :class:`FtplugError` where the extra ``[bom]`` is not installed.
    """
    manifest, where, sha, _ = _located(artifact, revision, hub=hub, plugins=False)
    return bom(manifest, where if sha else None)


def _located(
    artifact: str | Path,
    revision: str | None = None,
    *,
    hub: Hub | None = None,
    plugins: bool = True,
) -> tuple[Manifest, str, str | None, Signed | None]:
    """Return manifest, name, for a repository commit sha, and who signed the manifest."""
    if not is_published(artifact, revision):
        folder = Path(artifact)
        manifest = read_manifest(folder, plugins=plugins)
        signed = check_artifact(folder, [MANIFEST], manifest, demand=Demand())
        return manifest, str(artifact), None, signed
    manifest, sha, signed = signed_manifest_at(str(artifact), revision, hub)
    return manifest, str(artifact), sha, signed


def rows(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a person wants to know of it first, as label and text."""
    base, model, training = content["base"], content["model"], content["training"]
    author = content["author"]
    trained, total = content["parameters"]["trained"], content["parameters"]["total"]
    facts = [("Artifact", content["artifact"]), ("Commit", content["sha"])]
    for method in content["methods"]:
        settings = ", ".join(
            f"{name}={value}" for name, value in settings_to_show(method["settings"]).items()
        )
        facts.append(("Method", f"{method['name']} ({settings})" if settings else method["name"]))
        facts.append(("Plugin", writer(method)))
    facts += [
        ("Base", base["id"] or _unnamed_base(author)),
        ("Base weights", None if base["id"] else weights(content)),
        ("Base architecture", None if base["id"] else model.get("config", {}).get("model_type")),
        ("Base revision", base["revision"]),
        ("Base licence", base.get("license")),
        ("Model class", model.get("class")),
        ("Task", model.get("task")),
        ("Labels", ", ".join((model.get("labels") or {}).values())),
        ("Trained", f"{trained:,} of {total:,} parameters ({trained / max(total, 1):.2%})"),
        ("Effect", in_words(content["effect"])),
        ("Data set", ", ".join(author.get("dataset_names", ()))),
        ("Data", _pairs(training.get("data"))),
        ("Metrics", _pairs(training.get("metrics"))),
        *_elsewhere(training.get("metrics_on_other_data")),
        ("Training", _pairs(training.get("hyperparameters"))),
        ("Hardware", training.get("hardware")),
        ("Signature", (content.get("signature") or {}).get("said")),
        ("Files", f"{len(content['files'])}, {content['bytes']:,} bytes"),
        ("Not usable here", content["missing"]),
    ]
    return [(name, str(text)) for name, text in facts if text not in (None, "")]


def _unnamed_base(author: Mapping[str, Any]) -> str:
    named = author.get("finetuned_from")
    return f"{named} (its author's word)" if named else "a model without a Hub id"


def _elsewhere(measured: Any) -> Iterator[tuple[str, str]]:
    """Yield the metrics on other data than the validation set, each with its data."""
    for one in measured if isinstance(measured, list) else ():
        if isinstance(one, dict) and (metrics := _pairs(one.get("metrics"))):
            yield "Metrics elsewhere", f"{metrics} on {_pairs(one.get('data')) or 'other data'}"


def _pairs(values: Any) -> str:
    if not isinstance(values, dict):
        return ""
    flat = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in flat.items()
    )
