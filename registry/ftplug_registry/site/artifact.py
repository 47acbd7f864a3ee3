"""What is known of an artifact: its manifest if that is sound, else why it is not."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ftplug.artifacts.card import CARD
from ftplug.artifacts.manifest import MANIFEST, Manifest, parse_manifest
from ftplug.artifacts.notices.reading import Notice, notice_in, notices_of
from ftplug.artifacts.signatures import SIGNATURE
from ftplug.comparing.report.texts import clean
from ftplug.errors import FtplugError, one_line
from ftplug_registry.site.found import Found, Signature, Version

_LONGEST_NAME = 120
_LONGEST_ID = 200  # of a repository's id: it is its page's address, and must be whole
_PLAIN = "adapter_config.json"
_LARGEST = 2**60  # bytes: a manifest may claim any number


@dataclass(frozen=True)
class Artifact:
    """One artifact of a zoo; every text is fit to be shown, but for ``manifest`` and ``card``.

    ``remarks`` say what is wrong with it. ``card`` is the card's whole text, as it was written.
    ``place`` is what it is called where it was found; ``name`` may have a number behind that.
    """

    name: str
    manifest: Manifest | None
    card: str
    notice: Notice | None
    signature: Signature
    consistent: bool
    remarks: tuple[str, ...]
    url: str | None = None
    endpoint: str | None = None
    sha: str | None = None
    date: str | None = None
    versions: tuple[Version, ...] = ()
    place: str = ""

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The manifest as JSON values; empty without one."""
        from dataclasses import asdict

        return asdict(self.manifest) if self.manifest else {}

    @property
    def bytes(self) -> int | None:
        """Size of the files that the manifest lists."""
        if self.manifest is None:
            return None
        return min(_LARGEST, sum(entry["size"] for entry in self.manifest.files.values()))


def read(found: Found) -> Artifact:
    """Return what was found, read and checked; whatever is wrong with it becomes a remark."""
    remarks = [found.remark] if found.remark else []
    manifest = None
    if not found.remark:
        try:
            manifest = _manifest(found)
        except FtplugError as error:
            remarks.append(one_line(error))
    differs = list(_differences(found, manifest)) if manifest else []
    signature = found.signature or _unchecked(found)
    if signature.state == "broken":
        remarks.append(signature.said)
    name = clean(found.name, _LONGEST_ID) or "without a name"
    card = found.files.get(CARD, b"").decode("utf-8", "replace")
    return Artifact(
        name=name,
        place=name,
        manifest=manifest,
        card=card,
        notice=_notice(card, found),
        signature=signature,
        consistent=manifest is not None and not differs,
        remarks=tuple(clean(remark) for remark in [*remarks, *differs]),
        url=found.url,
        endpoint=found.endpoint,
        sha=found.sha,
        date=found.date,
        versions=tuple(
            Version(clean(one.name, _LONGEST_NAME), one.sha, one.kind) for one in found.versions
        ),
    )


def _manifest(found: Found) -> Manifest:
    listed = found.listed or {}
    if MANIFEST in found.files:
        return parse_manifest(found.files[MANIFEST], Path(MANIFEST), plugins=False)
    if MANIFEST in listed:
        raise FtplugError(f"{MANIFEST} has {listed[MANIFEST].size:,} bytes, too many for one")
    if _PLAIN in listed:
        raise FtplugError(f"a plain PEFT adapter: it has no {MANIFEST}, so nothing pins it")
    raise FtplugError(f"no {MANIFEST}: not an artifact of ftplug")


def _differences(found: Found, manifest: Manifest) -> list[str]:
    """Return what the listing has otherwise than the manifest; one remark stands for many."""
    if found.listed is None:
        return []
    remarks = []
    for name, entry in manifest.files.items():
        there = found.listed.get(name)
        if there is None:
            remarks.append(f"{name} is missing, which the manifest lists")
        elif there.size != entry["size"]:
            said = f"{there.size:,} bytes, but the manifest says {entry['size']:,}"
            remarks.append(f"{name} has {said}: altered")
        elif there.sha256 and there.sha256 != entry["sha256"]:
            remarks.append(f"{name} has another sha256 than the manifest says: altered")
    more = f" (and {len(remarks) - 1} more)" if len(remarks) > 1 else ""
    return [f"{remarks[0]}{more}"] if remarks else []


def _unchecked(found: Found) -> Signature:
    if found.listed is not None and SIGNATURE in found.listed:
        return Signature("present", "signed; who made this page did not check by whom")
    return Signature()


def _notice(card: str, found: Found) -> Notice | None:
    manifest = hashlib.sha256(found.files.get(MANIFEST, b"")).hexdigest()
    return notice_in(notices_of(card), manifest=manifest, commit=found.sha)
