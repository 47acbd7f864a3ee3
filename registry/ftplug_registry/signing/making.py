"""Signing an artifact with a key of one's own: no network, nothing of the artifact is changed."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.artifacts.card import CARD, CARD_PICTURES
from ftplug.artifacts.digests import sha256
from ftplug.artifacts.manifest import MANIFEST, Manifest, read_manifest
from ftplug.artifacts.signatures import PROVENANCE, SIGNATURE, SIGNATURES, UNSIGNED, signatures_in
from ftplug.errors import RegistryError
from ftplug.files.staged import finish_interrupted, replace_file
from ftplug.files.write_errors import stated_write_errors
from ftplug_registry.bom.document import BOM
from ftplug_registry.contents import card_images
from ftplug_registry.signing.bundles import key_bundle, parse_bundle, with_material
from ftplug_registry.signing.keys import PublicKey, ask_passphrase, checked, read_private
from ftplug_registry.signing.library import given_digests, library, stated
from ftplug_registry.signing.provenance import provenance
from ftplug_registry.signing.rotating import rotations_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

OMS = "https://model_signing/signature/v1.0"
OF_GIT = (".git", ".gitattributes", ".github", ".gitignore")  # what model signing never covers


@dataclass(frozen=True)
class Signer:
    """A private key that was opened, and the certificates that vouch for it, if any."""

    path: Path
    private: EllipticCurvePrivateKey = field(repr=False)
    public: PublicKey
    passphrase: str | None = field(repr=False)
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        key: str | os.PathLike[str],
        *,
        certificate: Path | None = None,
        chain: tuple[Path, ...] = (),
        passphrase: Callable[[Path], str | None] = ask_passphrase,
    ) -> Signer:
        """Open a key. Raises :class:`RegistryError` where it cannot be, or is of another kind."""
        library()
        path = Path(key)
        typed: list[str | None] = []

        def ask() -> str | None:
            typed.append(passphrase(path))
            return typed[-1]

        private = read_private(path, ask)
        if chain and not certificate:
            raise RegistryError("--chain: goes with the --certificate that it vouches for")
        if certificate and typed:
            raise RegistryError(
                f"{path}: model-signing takes no passphrase beside a certificate: give the key "
                "without one (openssl pkey)"
            )
        public = checked(private.public_key(), path)
        secret = typed[-1] if typed else None
        return cls(path, private, public, secret, certificate, chain)

    def signatures(
        self, digests: Mapping[str, str], name: str, manifest: Manifest
    ) -> dict[str, bytes]:
        """Return ``model.sig`` and ``ftplug_provenance.sig`` of files with these sha256."""
        signed = self._model_signature(digests, name)
        bundle = parse_bundle(signed, OMS, SIGNATURE)
        statement = provenance(
            manifest,
            bundle.statement["subject"][0],
            key=None if self.certificate else self.public.pem,
            rotations=rotations_of(self.path),
        )
        beside = key_bundle(statement, self.private, self.public)
        if bundle.certificates:
            chain = [
                {"rawBytes": base64.b64encode(one).decode("ascii")} for one in bundle.certificates
            ]
            certified = {"x509CertificateChain": {"certificates": chain}, "tlogEntries": []}
            beside = with_material(beside, certified)
        return {SIGNATURE: signed, PROVENANCE: beside}

    def _model_signature(self, digests: Mapping[str, str], name: str) -> bytes:
        config = library().signing.Config()
        config.set_hashing_config(given_digests(name, digests, (*sorted(UNSIGNED), *OF_GIT)))
        with tempfile.TemporaryDirectory() as folder, stated(self.path, "cannot sign"):
            if self.certificate:
                config.use_certificate_signer(
                    private_key=self.path,
                    signing_certificate=self.certificate,
                    certificate_chain=self.chain or (self.certificate,),  # it takes no empty one
                )
            else:
                secret = self.passphrase.encode("utf-8") if self.passphrase else None
                config.use_elliptic_key_signer(private_key=self.path, password=secret)
            written = Path(folder) / SIGNATURE
            config.sign(folder, written)
            return written.read_bytes()


def sign(directory: str | os.PathLike[str], signer: Signer, *, replace: bool = False) -> Path:
    """Sign an artifact's folder: ``model.sig`` and ``ftplug_provenance.sig`` appear in it.

    Every file is covered but the card and the two; one that belongs to nothing is refused. A
    signature that is there is kept, unless ``replace``. Returns the folder.
    """
    folder = Path(directory)
    digests, manifest = signable(folder, replace=replace)
    made = signer.signatures(digests, folder.resolve().name, manifest)
    write_signatures(folder, made)
    return folder


def signable(folder: Path, *, replace: bool) -> tuple[dict[str, str], Manifest]:
    """Return the sha256 of every file that a signature covers, and the manifest, all verified."""
    with stated_write_errors(folder):
        finish_interrupted(folder)
    manifest = read_manifest(folder, plugins=False)
    if (there := sorted(signatures_in(folder))) and not replace:
        raise RegistryError(f"{folder}: signed already ({', '.join(there)}): --replace signs anew")
    manifest.verify_files(folder)
    listed = {name: entry["sha256"] for name, entry in manifest.files.items()}
    known = {*listed, MANIFEST, *UNSIGNED, BOM, *_pictures(folder)}
    for name in files_in(folder):
        path = folder / name
        if path.is_symlink():
            raise RegistryError(
                f"{folder}: {name} is a link, as in a Hub's cache: sign a folder of its own "
                "(ftplug pull --to)"
            )
        if name not in known:
            raise RegistryError(
                f"{folder}: {name} is neither in the manifest nor part of the card: move it away, "
                "or save the artifact into a folder of its own"
            )
        if name not in listed and name not in UNSIGNED:
            listed[name] = sha256(path)
    return listed, manifest


def write_signatures(folder: Path, made: Mapping[str, bytes]) -> None:
    """Write the files of a signature, the one that counts last; what was there before goes."""
    with stated_write_errors(folder):
        for name in sorted(SIGNATURES & made.keys()):
            replace_file(folder / name, made[name])
        for name in signatures_in(folder) - made.keys():
            (folder / name).unlink()


def files_in(folder: Path) -> Iterator[str]:
    """Yield the names of everything in a folder that is no folder, without git's own."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if name.parts[0] not in OF_GIT and (path.is_symlink() or not path.is_dir()):
            yield name.as_posix()


def _pictures(folder: Path) -> set[str]:
    card: Any = folder / CARD
    shown = card_images(card.read_text("utf-8", "replace")) if card.is_file() else []
    return {*CARD_PICTURES, *shown}
