"""What a pin says to a signature: the same key, one that follows it, or a stranger's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftplug.artifacts.signatures import PROVENANCE
from ftplug.context import logger
from ftplug.errors import RegistryError
from ftplug_registry.signing.keys import PublicKey
from ftplug_registry.signing.pins import Earlier, Pin, Repository, pin
from ftplug_registry.signing.rotating import leads
from ftplug_registry.signing.trusted import Trusted


@dataclass(frozen=True)
class Seen:
    """Who made a signature, verified: a line of the user's, and what a pin would note; or nobody.

    ``provenance`` is what the same signer says of the run, where that came along.
    """

    line: Trusted | None
    key: str | None
    public: PublicKey | None
    provenance: Mapping[str, Any] | None


def accept(
    repository: Repository | None,
    pinned: Pin | None,
    seen: Seen,
    is_older: Callable[[str], bool],
    *,
    decided: bool,
    folder: Path,
) -> str:
    """Return how a signer is known, and pin it. Raises where the pin is another's.

    ``decided`` says that a line of the user's names this very repository: a pin follows it.
    """
    if seen.key is None:
        if pinned is not None:
            raise _another(folder, pinned, "one that cannot be checked here")
        return "unchecked"
    if repository is None:
        return "trusted" if seen.line else "unknown"
    pem = seen.public.pem if seen.public else None
    fresh = Pin(repository.endpoint, repository.repo_id, seen.key, pem, repository.sha)
    if pinned is None:
        pin(repository, fresh, instead_of=None)
        return "first use"
    if pinned.key == seen.key:
        if pinned.first is None:
            pin(repository, replace(pinned, first=repository.sha), instead_of=pinned)
        return "pinned"
    if seen.key in pinned.public_keys() and pinned.since and is_older(pinned.since):
        return "pinned"  # an older revision, by the key of then
    if decided:
        pin(repository, fresh, instead_of=pinned)
        return "trusted"
    if _follows(pinned, seen, folder):
        former = Earlier(pinned.key, str(pinned.pem))
        later = replace(
            pinned,
            key=seen.key,
            pem=pem,
            since=repository.sha,
            earlier=[*pinned.earlier, former],
        )
        pin(repository, later, instead_of=pinned)
        logger.warning(
            "%s: the key %s follows %s, which signed that: pinned",
            *(repository.repo_id, seen.key[:16], pinned.key[:16]),
        )
        return "pinned"
    raise _another(folder, pinned, seen.key[:16])


def _follows(pinned: Pin, seen: Seen, folder: Path) -> bool:
    """Whether statements of the pinned key lead to the one that was seen."""
    holder = pinned.public_keys().get(pinned.key)
    if holder is None or not seen.public or not seen.provenance:
        return False
    rotations = seen.provenance.get("ftplug_keyRotations") or []
    return leads(rotations, holder, seen.public.fingerprint, folder / PROVENANCE)


def _another(folder: Path, pinned: Pin, key: str) -> RegistryError:
    return RegistryError(
        f"{folder}: {pinned.repo_id} was signed by {pinned.key[:16]}, and comes now with {key}: "
        f"not accepted. If its owner says so (by another way than this repository): ftplug trust "
        f"{pinned.repo_id} KEY"
    )
