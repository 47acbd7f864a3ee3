"""Who signed an artifact, as the maker of a page knows it; nobody is pinned by making a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ftplug.artifacts.manifest import MANIFEST, Manifest
from ftplug.artifacts.signatures import SIGNATURE
from ftplug.comparing.report.texts import clean
from ftplug.errors import FtplugError, one_line
from ftplug_registry.signing.checking import Demand, Signed, check_artifact
from ftplug_registry.signing.trusted import trusted
from ftplug_registry.site.found import Signature


@dataclass(frozen=True)
class Checking:
    """How signatures are checked: by these keys, or by those that the user trusts anyway."""

    trusted: Path | None = None

    def require_keys(self) -> None:
        """Refuse keys that cannot be read, also where nothing is signed."""
        if self.trusted is not None:
            trusted(self.trusted)

    def checked(self, folder: Path, manifest: Manifest) -> Signature:
        """Return what the signature in a folder says of the manifest there.

        The files that the manifest lists are compared by their digests in it: their contents are
        not read.
        """
        if not os.path.lexists(folder / SIGNATURE):
            return Signature()
        try:
            signed = check_artifact(folder, [MANIFEST], manifest, demand=Demand())
        except FtplugError as error:
            reason = one_line(error).removeprefix(f"{folder}: ")
            return Signature("broken", f"its signature does not hold: {clean(reason)}")
        if signed is not None and self.trusted is not None:
            signed = self._by_the_named(folder, manifest) or signed
        return _in_words(signed)

    def _by_the_named(self, folder: Path, manifest: Manifest) -> Signed | None:
        try:
            return check_artifact(folder, [MANIFEST], manifest, demand=Demand(self.trusted))
        except FtplugError:  # signed by somebody else
            return None


def _in_words(signed: Signed | None) -> Signature:
    """Return a signature without the paths of this machine, which ``Signed.said`` has."""
    if signed is None:
        return Signature()
    key = f"the key {clean(signed.key, 16)}…" if signed.key else "a certificate"
    if signed.known == "unchecked":
        return Signature("present", "signed; not checked when this page was made")
    if not signed.counts:
        return Signature(
            "unknown", f"signed by {key}, for which nobody vouched when this page was made"
        )
    who = f"{clean(signed.signer, 120)}, {key}" if signed.signer else key
    return Signature("checked", f"signed by {who}, whom the maker of this page trusts")
