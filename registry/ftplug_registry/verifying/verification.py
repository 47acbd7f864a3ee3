"""Checking an artifact from the ground up: its files' hashes, and the weights of its base."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftplug.artifacts.base_model import base_fingerprint, base_model
from ftplug.artifacts.manifest import Manifest, read_manifest
from ftplug.artifacts.methods import methods_of, not_installed
from ftplug.artifacts.registries import is_published
from ftplug.demo import minilm
from ftplug.effect.probe import FILE
from ftplug.errors import ArtifactError
from ftplug_registry.hub import Hub
from ftplug_registry.pulling.fetching import snapshot
from ftplug_registry.signing.checking import Demand, Signed, check_artifact
from ftplug_registry.signing.making import files_in


@dataclass(frozen=True)
class Verified:
    """What was checked. ``base_fingerprint`` is None where the artifact has none to compare.

    ``missing`` says of each method that is not installed here what the manifest says of it;
    ``probe`` tells whether it holds one, unasked; ``signature`` is None where there is none.
    """

    artifact: str
    sha: str | None
    files: tuple[str, ...]
    bytes: int
    base: str | None
    base_revision: str | None
    base_fingerprint: str | None
    base_checked: bool
    missing: tuple[str, ...]
    probe: bool = False
    signature: Signed | None = None

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return vars(self) | {"signature": self.signature.as_json() if self.signature else None}


def verify(
    artifact: str | Path,
    revision: str | None = None,
    *,
    base: str | os.PathLike[str] | None = None,
    files_only: bool = False,
    trusted: str | os.PathLike[str] | None = None,
    require_signature: bool = False,
    allow_unsigned: bool = False,
    hub: Hub | None = None,
) -> Verified:
    """Recompute the sha256 of every file and the fingerprint of the base.

    ``base`` is where the base's weights lie, if not under the id that the manifest names;
    ``files_only`` leaves the base out, and needs no plugin: none is imported. A signature is
    checked by the keys known here: with ``trusted``, a file or folder of keys, one of these must
    have signed; ``require_signature`` and ``allow_unsigned`` are those of ``pull``. Raises
    :class:`ArtifactError` naming what differs, also where the base cannot be read (what could not
    be checked is not verified), and :class:`PluginError` where a method is not installed.
    """
    demand, signed = Demand(trusted, require_signature, allow_unsigned), None
    if is_published(artifact, revision):
        fetched = snapshot(str(artifact), revision, demand=demand, hub=hub)
        path, sha, signed = fetched.path, fetched.sha, fetched.signed
    else:
        path, sha = Path(artifact), None
    manifest = read_manifest(path, plugins=False)
    manifest.verify_files(path)
    if sha is None:
        signed = check_artifact(path, files_in(path), manifest, demand=demand, whole=True)
    if not files_only:
        methods_of(read_manifest(path), path)
    digest = None if files_only else _check_base(manifest, path, base)
    return Verified(
        artifact=str(artifact),
        sha=sha,
        files=tuple(manifest.files),
        bytes=sum(entry["size"] for entry in manifest.files.values()),
        base=manifest.base["id"],
        base_revision=manifest.base["revision"],
        base_fingerprint=digest,
        base_checked=digest is not None,
        missing=tuple(not_installed(manifest)),
        probe=FILE in manifest.files,
        signature=signed,
    )


def _check_base(
    manifest: Manifest, directory: Path, base: str | os.PathLike[str] | None
) -> str | None:
    """Return the base's digest once it matches; None where the artifact was made without one."""
    if manifest.fingerprint is None:
        return None
    where = base or minilm.installed(manifest.base["id"]) or manifest.base["id"]
    if where is None:
        raise ArtifactError(
            f"{directory}: its base has no Hub id: name its folder with --base, or check the "
            "files alone with --files-only"
        )
    found = base_fingerprint(base_model(where, manifest, directory), manifest)
    if found is None or not found.matches(manifest.fingerprint):
        raise ArtifactError(
            f"{directory}: the weights at {where} are not those it was trained on (fingerprint "
            f"{found.bf16[:12] if found else 'none'}, not {manifest.fingerprint.bf16[:12]})"
        )
    return found.bf16
