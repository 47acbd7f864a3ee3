"""The second statement beside a signature: the run's facts under SLSA's names, by its own author.

`SLSA provenance v1 <https://slsa.dev/spec/v1.0/provenance>`_ gives the field names. It is what the
signer says of the run; no level of SLSA is claimed, because no build platform vouches for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ftplug.artifacts.manifest import Manifest
from ftplug_registry.signing.bundles import STATEMENT

SLSA = "https://slsa.dev/provenance/v1"
_BUILD_TYPE = "pkg:pypi/ftplug#run/v1"
_METADATA = ("seed", "steps", "epochs", "seconds", "hardware")


def provenance(
    manifest: Manifest, subject: Mapping[str, Any], *, key: str | None, rotations: Sequence[Any]
) -> dict[str, Any]:
    """Return the statement on the run of a manifest.

    ``subject`` is the signature's own. ``key`` is the signer's public key in PEM, by which whoever
    sees it first can check what is signed; ``rotations`` lead to it from earlier keys.
    """
    training = manifest.training
    own = {"ftplug_publicKey": key, "ftplug_keyRotations": list(rotations)}
    return {
        "_type": STATEMENT,
        "subject": [dict(subject)],
        "predicateType": SLSA,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {
                    "methods": [
                        {"name": one["name"], "settings": one["settings"]}
                        for one in manifest.methods
                    ],
                    "train_head": manifest.train_head,
                    "hyperparameters": training.get("hyperparameters") or {},
                },
                "internalParameters": {
                    name: training[name] for name in _METADATA if training.get(name) is not None
                },
                "resolvedDependencies": list(_dependencies(manifest)),
            },
            "runDetails": {
                "builder": {
                    "id": f"pkg:pypi/ftplug@{manifest.versions.get('ftplug', '')}",
                    "version": dict(manifest.versions),
                },
            },
            **{name: value for name, value in own.items() if value},
        },
    }


def _dependencies(manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Yield what went into the run: base, data, scripts, plugins and libraries."""
    base = manifest.base
    if base["id"] or base.get("fingerprint"):
        uri = f"https://huggingface.co/{base['id']}" if base["id"] else None
        yield _resource("base", uri, gitCommit=base["revision"], **_prints(manifest))
    yield from _data(manifest.training.get("data"))
    yield from _scripts(manifest.training)
    for one in manifest.methods:
        if one["distribution"]:
            yield _package("plugin", one["distribution"], one["version"])
    for name, version in manifest.versions.items():
        yield _package("library", name, version)


def _prints(manifest: Manifest) -> dict[str, str]:
    """Return the digests of the base's weights by which ftplug knows them."""
    found = manifest.fingerprint
    return {"ftplug_bf16": found.bf16, "ftplug_fp16": found.fp16} if found else {}


def _data(facts: Any) -> Iterator[dict[str, Any]]:
    """Yield the data sets that ``datasets`` knew by id and commit, or by the digest of a file."""
    for prefix, name in (("", "data"), ("eval_", "evaluation data")):
        said = facts if isinstance(facts, dict) else {}
        where, sha = said.get(f"{prefix}dataset"), said.get(f"{prefix}revision")
        if where and sha:
            yield _resource(name, f"https://huggingface.co/datasets/{where}", gitCommit=sha)
        elif where:
            yield _resource(f"{name}: {where}", None)


def _scripts(training: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the scripts of which the manifest keeps name and sha256."""
    for key in ("script", "evaluation"):
        said = training.get(key)
        script = said.get("script", said) if isinstance(said, dict) else None
        if isinstance(script, dict) and isinstance(script.get("sha256"), str):
            yield _resource(str(script.get("name", key)), None, sha256=script["sha256"])


def _package(name: str, distribution: str, version: str | None) -> dict[str, Any]:
    at = f"@{version}" if version else ""
    return {"name": name, "uri": f"pkg:pypi/{distribution.lower().replace('_', '-')}{at}"}


def _resource(name: str, uri: str | None, **digests: Any) -> dict[str, Any]:
    """Return SLSA's descriptor of a resource; digests by their algorithm."""
    digest = {algorithm: value for algorithm, value in digests.items() if value}
    return {"name": name, **({"uri": uri} if uri else {}), **({"digest": digest} if digest else {})}
