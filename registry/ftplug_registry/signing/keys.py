"""Key pairs: made, read, and known by the fingerprint that stands in a signature."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.context import logger
from ftplug.errors import RegistryError, one_line
from ftplug.files.flush import flush_directory
from ftplug_registry.signing.library import MISSING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

PASSPHRASE = "FTPLUG_KEY_PASSPHRASE"
CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_LARGEST = 2**16  # bytes of a key's file
_SUPPORTED = "ECDSA over P-256, P-384 or P-521 is what OpenSSF model signing takes"


@dataclass(frozen=True)
class PublicKey:
    """A public key as PEM; ``fingerprint`` is the sha256 of that, as signatures name their key."""

    pem: str

    @property
    def fingerprint(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self.pem.encode("utf-8", "backslashreplace")).hexdigest()

    @property
    def openssh(self) -> str:
        """``ecdsa-sha2-nistp256 AAAA…``, as ssh and a file of trusted keys write it."""
        serialization = _serialization()
        key = serialization.load_pem_public_key(self.pem.encode())
        form = serialization.PublicFormat.OpenSSH
        return str(key.public_bytes(serialization.Encoding.OpenSSH, form).decode("ascii"))

    def verify(self, signature: bytes, content: bytes) -> bool:
        """Whether the key made an ECDSA signature (DER) of these bytes."""
        from cryptography.exceptions import InvalidSignature

        key = _serialization().load_pem_public_key(self.pem.encode())
        try:
            key.verify(signature, content, ecdsa(key))
        except InvalidSignature:
            return False
        return True


def ecdsa(key: Any) -> Any:
    """Return the algorithm of a key: the hash is as long as the curve, as Sigstore has it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    kinds: dict[int, Any] = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
    return ec.ECDSA(kinds[key.curve.key_size]())


def public_key(content: bytes, where: Path | str) -> PublicKey:
    """Return the key of a PEM or OpenSSH text. Raises RegistryError for all that is none."""
    serialization = _serialization()
    if b"PRIVATE KEY" in content:
        raise RegistryError(f"{where}: a private key, which stays with its owner: give its .pub")
    pem = b"-----BEGIN" in content  # other programs write words before it
    load = serialization.load_pem_public_key if pem else serialization.load_ssh_public_key
    try:
        return checked(load(content.strip()), where)
    except RegistryError:
        raise
    except Exception as error:  # cryptography's own are many
        raise RegistryError(f"{where}: no public key that can be read: {one_line(error)}") from None


def checked(key: Any, where: Path | str) -> PublicKey:
    """Return a key of cryptography's, if it is one that model signing takes."""
    from cryptography.hazmat.primitives.asymmetric import ec

    serialization = _serialization()
    kind = type(key).__name__.removesuffix("PublicKey").lstrip("_")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RegistryError(f"{where}: a key of the kind {kind}: {_SUPPORTED}")
    if key.curve.name not in CURVES:
        raise RegistryError(f"{where}: a key on the curve {key.curve.name}: {_SUPPORTED}")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return PublicKey(key.public_bytes(serialization.Encoding.PEM, form).decode("ascii"))


def read_public(path: Path) -> PublicKey:
    """Return the public key of a file."""
    return public_key(read_bounded(path, _LARGEST), path)


def generate(path: Path, passphrase: str | None, curve: str = "P-256") -> PublicKey:
    """Write a new private key (PEM, PKCS #8, mode 0600) and, beside it, its public key as ``.pub``.

    Neither file is ever overwritten.
    """
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric import ec

    curves: dict[str, Any] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
    if curve not in curves:
        raise RegistryError(f"--curve {curve}: one of {', '.join(curves)}")
    private = ec.generate_private_key(curves[curve]())
    public = checked(private.public_key(), path)
    encryption = (
        serialization.BestAvailableEncryption(passphrase.encode("utf-8"))
        if passphrase
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    beside = path.with_name(f"{path.name}.pub")
    for one in (path, beside):
        if os.path.lexists(one):
            raise RegistryError(f"{one} is there already, and no key is overwritten: another name")
    _write_new(path, private.private_bytes(serialization.Encoding.PEM, form, encryption), 0o600)
    _write_new(beside, public.pem.encode("ascii"), 0o644)
    return public


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not be there, readable by others from the first byte on as it says."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        flush_directory(path.parent)
    except FileExistsError:
        raise RegistryError(f"{path} is there already, and no key is overwritten") from None
    except OSError as error:
        raise RegistryError(f"{path}: cannot be written: {one_line(error)}") from error


def read_private(path: Path, passphrase: Callable[[], str | None]) -> EllipticCurvePrivateKey:
    """Return the private key of a file; ``passphrase`` is asked where it is encrypted."""
    serialization = _serialization()
    content = read_bounded(path, _LARGEST)
    if b"PUBLIC KEY" in content:
        raise RegistryError(f"{path}: a public key: signing takes the private one beside it")
    _warn_of_readers(path)
    secret = None
    if b"ENCRYPTED" in content:
        secret = passphrase()
        if not secret:
            raise RegistryError(f"{path}: has a passphrase: set {PASSPHRASE}, or use a terminal")
    try:
        key = serialization.load_pem_private_key(content, secret.encode() if secret else None)
    except Exception as error:
        if secret:
            raise RegistryError(f"{path}: the passphrase does not open this key") from None
        said = one_line(error)
        raise RegistryError(f"{path}: no private key in PEM that can be read: {said}") from None
    checked(key.public_key(), path)
    private: EllipticCurvePrivateKey = key
    return private


def ask_passphrase(path: Path) -> str | None:
    """Return what the environment says, else what a person types; None where there is none."""
    if PASSPHRASE in os.environ:
        return os.environ[PASSPHRASE]
    if not sys.stdin.isatty():
        return None
    import getpass

    return getpass.getpass(f"passphrase of {path}: ")


def read_bounded(path: Path, largest: int) -> bytes:
    """Return the content of a regular file of at most ``largest`` bytes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RegistryError(f"{path}: no regular file")
            content = file.read(largest + 1)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise RegistryError(f"{path}: cannot be read: {reason}") from error
    if len(content) > largest:
        raise RegistryError(f"{path}: more than {largest:,} bytes, too many for what it should be")
    return content


def _warn_of_readers(path: Path) -> None:
    if os.name == "posix" and (mode := path.stat().st_mode) & 0o077:
        logger.warning("%s: others may read this key (%o): chmod 600 it", path, mode & 0o777)


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise RegistryError(MISSING) from error
    return serialization
