"""The signature beside an artifact: what the host knows of it, so that it is never made wrong."""

from __future__ import annotations

import os
from pathlib import Path

from ftplug.artifacts.card import CARD
from ftplug.errors import ArtifactError

SIGNATURE = "model.sig"  # OpenSSF model signing's name for it
PROVENANCE = "ftplug_provenance.sig"
SIGNATURES = frozenset({SIGNATURE, PROVENANCE})
UNSIGNED = frozenset({CARD, *SIGNATURES})  # what a signature leaves out


def signatures_in(directory: Path) -> set[str]:
    """Return which of the signature's files a folder has."""
    return {name for name in SIGNATURES if os.path.lexists(directory / name)}


def refuse_signed(directory: Path, action: str) -> None:
    """Refuse to change an artifact that somebody has signed."""
    if signed := sorted(signatures_in(directory)):
        raise ArtifactError(
            f"{directory}: {action}: it is signed, and would no longer be what was signed: remove "
            f"{' and '.join(signed)} first, and sign it again afterwards"
        )
