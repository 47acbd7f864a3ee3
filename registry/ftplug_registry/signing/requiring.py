"""What the host asks of a signature before it loads a folder."""

from __future__ import annotations

import os
from pathlib import Path

from ftplug.artifacts.manifest import MANIFEST, read_manifest
from ftplug_registry.signing.checking import Demand, check_artifact
from ftplug_registry.signing.making import files_in


def require_signature(directory: Path, *, trusted: str | os.PathLike[str] | None = None) -> None:
    """Refuse a folder whose files somebody known here has not signed.

    What a manifest lists is compared by the manifest's own digests, which loading verifies. Of a
    plain PEFT adapter every file has to be signed.
    """
    known = (directory / MANIFEST).is_file()
    manifest = read_manifest(directory, plugins=False) if known else None
    names = [MANIFEST] if known else files_in(directory)
    check_artifact(directory, names, manifest, demand=Demand(trusted, required=True))
