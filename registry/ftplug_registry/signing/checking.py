"""Whether an artifact's signature is there, whole, and by somebody who counts here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftplug.artifacts.manifest import MANIFEST, Manifest
from ftplug.artifacts.signatures import PROVENANCE, SIGNATURE, UNSIGNED
from ftplug.context import logger
from ftplug.errors import RegistryError, one_line
from ftplug.files.hashed import HashedFile
from ftplug_registry.signing.bundles import Bundle, read_bundle, signed_digests
from ftplug_registry.signing.library import MISSING, library
from ftplug_registry.signing.making import OMS
from ftplug_registry.signing.pinning import Seen, accept
from ftplug_registry.signing.pins import Pin, Repository, pin_of
from ftplug_registry.signing.provenance import SLSA
from ftplug_registry.signing.trusted import Trusted, trusted
from ftplug_registry.signing.verifying import (
    key_that_came,
    name_in,
    require_beside,
    verified_by,
    verify_beside,
    verify_by_key,
)


@dataclass(frozen=True)
class Demand:
    """What is asked of a signature.

    ``trusted`` names a file or folder of keys, one of which must have signed; ``required`` refuses
    an artifact without a signature that counts; ``allow_unsigned`` accepts one of before the first
    signed revision.
    """

    trusted: str | os.PathLike[str] | None = None
    required: bool = False
    allow_unsigned: bool = False

    @property
    def strict(self) -> bool:
        """Whether an unsigned artifact is refused, whatever is known of its repository."""
        return self.required or self.trusted is not None


@dataclass(frozen=True)
class Signed:
    """A signature that was looked at.

    ``known`` tells how: ``trusted`` (a line or file of the user's names it), ``pinned`` (by the key
    that signed this repository before), ``first use`` (pinned from now on), ``unknown`` (by the key
    that came with it, which nobody here vouches for) or ``unchecked`` (no key at hand). ``signer``
    is who the user calls so, with the subject of a certificate that leads to an authority of
    theirs; None where nobody here vouches for a name. ``where`` is the line that says it.
    """

    known: str
    key: str | None
    signer: str | None
    where: str | None
    names: frozenset[str] = field(repr=False)
    provenance: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def counts(self) -> bool:
        """Whether somebody here vouches for the signer."""
        return self.known in ("trusted", "pinned", "first use")

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, without the list of files."""
        return {k: v for k, v in asdict(self).items() if k != "names"}

    def said(self) -> str:
        """Return one line on the signer."""
        who = f"by {self.signer}" if self.signer else "by a key without a name here"
        key = f", key {self.key[:16]}…" if self.key else ""
        match self.known:
            case "trusted":
                return f"{who}{key} ({self.where})"
            case "pinned":
                return f"{who}{key}, which signed this repository before"
            case "first use":
                return f"{who}{key}, pinned for this repository from now on"
            case "unknown":
                return f"by the key {self.key}, for which nobody vouches here (--trusted)"
        return f"not checked: {MISSING if not _installed() else 'its key is not known (--trusted)'}"


def check_artifact(
    folder: Path,
    names: Iterable[str],
    manifest: Manifest | None,
    *,
    demand: Demand,
    repository: Repository | None = None,
    whole: bool = False,
    is_older: Callable[[str], bool] = lambda commit: False,
) -> Signed | None:
    """Check the signature in a folder; None where there is none, and none is needed.

    ``names`` are the files that the artifact consists of, all of which must be signed; of those in
    the manifest the digests are taken from there: verify them before or after. With ``whole``
    ``names`` are all that lie in the folder: then a signed one may not be missing either.
    ``is_older`` tells whether what is looked at came before a commit of the same repository. Raises
    :class:`RegistryError` in one line.
    """
    known = _Known.of(repository, demand)
    if not os.path.lexists(folder / SIGNATURE):
        _require_unsigned(folder, demand, known, is_older)
        return None
    bundle = read_bundle(folder / SIGNATURE, OMS)
    signed = signed_digests(bundle)
    _compare(folder, bundle, signed, names, manifest, whole=whole)
    if not known.decides and not demand.strict and not _installed():
        return Signed("unchecked", bundle.hint, None, None, frozenset(signed))
    library()
    seen = _identified(folder, bundle, known)
    if seen.line is None and (demand.trusted is not None or known.named):
        raise _not_named(folder, bundle, demand, known)
    how = accept(repository, known.pinned, seen, is_older, decided=bool(known.named), folder=folder)
    how = "trusted" if seen.line else how
    if demand.required and how in ("unknown", "unchecked"):
        key = seen.key or bundle.hint
        who = key[:64] if key else "a certificate"  # whose name anybody can write into it
        raise RegistryError(
            f"{folder}: signed by {who}, for which nobody vouches here: name whom you trust "
            "with --trusted (trusted=), or in your trusted_keys"
        )
    where = seen.line.where if seen.line else None
    signer = _signer(bundle, seen.line)
    return Signed(how, seen.key, signer, where, frozenset(signed), seen.provenance)


def expects_signature(repository: Repository, demand: Demand) -> bool:
    """Whether an artifact of this repository has to be signed."""
    return demand.strict or _Known.of(repository, demand).decides


def covered_by(folder: Path) -> frozenset[str]:
    """Return the names that the signature in a folder lists, unverified."""
    return frozenset(signed_digests(read_bundle(folder / SIGNATURE, OMS)))


@dataclass(frozen=True)
class _Known:
    """What is known here of a repository: its pin, and whom the user trusts for it.

    ``named`` are the lines that name this very repository: they alone decide.
    """

    repo_id: str | None
    pinned: Pin | None
    lines: tuple[Trusted, ...]
    named: tuple[Trusted, ...]

    @classmethod
    def of(cls, repository: Repository | None, demand: Demand) -> _Known:
        repo_id = repository.repo_id if repository else None
        lines = tuple(one for one in trusted(demand.trusted) if one.counts_for(repo_id))
        named = tuple(one for one in lines if one.names(repo_id))
        pinned = pin_of(repository) if repository else None
        return cls(repo_id, pinned, named or lines, named)

    @property
    def decides(self) -> bool:
        """Whether it has to be signed by somebody certain."""
        return self.pinned is not None or bool(self.named)


def _signer(bundle: Bundle, line: Trusted | None) -> str | None:
    if line and line.authority:
        return f"{name_in(bundle)} (certified by {line.who})"
    return line.who if line else None  # nobody vouches for what a certificate calls itself


def _not_named(folder: Path, bundle: Bundle, demand: Demand, known: _Known) -> RegistryError:
    where = demand.trusted if demand.trusted is not None else known.named[0].where
    who = bundle.hint[:16] if bundle.hint else "a certificate"
    what = known.repo_id or "a folder"
    return RegistryError(f"{folder}: signed by {who}, whom {where} does not name for {what}")


def _identified(folder: Path, bundle: Bundle, known: _Known) -> Seen:
    """Find who made a signature, and check the provenance beside it by the same key."""
    pinned = known.pinned
    beside = None
    if os.path.lexists(folder / PROVENANCE):
        beside = read_bundle(folder / PROVENANCE, SLSA)
        require_beside(bundle, beside)
    line = verified_by(bundle, known.lines)
    key = line.key if line else None
    if line is None and bundle.kind == "publicKey":
        own = pinned.public_keys().get(bundle.hint or "") if pinned else None
        key = own or key_that_came(bundle, beside)
        if key is not None:
            verify_by_key(bundle, key)
    if line is None and pinned and pinned.pem is None:
        line = verified_by(bundle, pinned.as_trusted())
    said: Mapping[str, Any] | None = None
    if beside is not None and (key is not None or line is not None):
        said = verify_beside(bundle, beside, key)
    return Seen(line, line.pinned if line else key.fingerprint if key else None, key, said)


def _require_unsigned(
    folder: Path, demand: Demand, known: _Known, is_older: Callable[[str], bool]
) -> None:
    """Refuse an artifact without a signature where there has to be one."""
    pinned, named = known.pinned, known.named
    first = pinned.first if pinned else None
    if demand.allow_unsigned and not demand.strict and first and is_older(first):
        logger.warning("%s: without a signature: older than the first signed one", folder)
        return
    if pinned is not None:
        raise RegistryError(
            f"{folder}: without a signature, but {pinned.repo_id} was signed by "
            f"{pinned.key[:16]} before: not accepted (--allow-unsigned takes what is older than "
            "its first signed revision)"
        )
    if named:
        raise RegistryError(f"{folder}: without a signature, which {named[0].where} expects")
    if demand.strict:
        raise RegistryError(f"{folder}: not signed (no {SIGNATURE}), and a signature is asked for")


def _compare(
    folder: Path,
    bundle: Bundle,
    signed: Mapping[str, str],
    names: Iterable[str],
    manifest: Manifest | None,
    *,
    whole: bool,
) -> None:
    """Refuse what is not what was signed, and what is there and was not."""
    listed = manifest.files if manifest else {}
    there = set(names) | listed.keys()
    left_out = bundle.predicate["serialization"].get("ignore_paths")
    ignored = [str(one).rstrip("/") for one in left_out] if isinstance(left_out, list) else []
    for name in sorted(there):
        if name not in signed:
            below = any(name == one or name.startswith(f"{one}/") for one in ignored)
            # What may change after signing are files: nothing hides in a folder of such a name.
            may_be = name in UNSIGNED or (below and name.partition("/")[0] not in UNSIGNED)
            if may_be and name not in listed and name != MANIFEST:
                continue
            raise RegistryError(f"{folder}: {name} is there, but was not signed: remove it")
        digest = listed[name]["sha256"] if name in listed else _sha256(folder, name)
        if signed[name] != digest:
            raise RegistryError(f"{folder}: {name} is not what was signed: altered since")
    if whole and (missing := sorted(signed.keys() - there)):
        raise RegistryError(f"{folder}: {missing[0]} was signed, and is missing")


def _sha256(folder: Path, name: str) -> str:
    try:
        with HashedFile(folder / name) as file:
            return file.sha256()
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise RegistryError(f"{folder}: {name} cannot be read: {reason}") from error


def _installed() -> bool:
    try:
        library()
    except RegistryError:
        return False
    return True
