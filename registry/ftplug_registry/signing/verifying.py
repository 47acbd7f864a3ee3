"""Who signed: one signature against one key, authority or identity, by the library of its kind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftplug.context import logger
from ftplug.errors import RegistryError
from ftplug_registry.signing.bundles import Bundle, pre_authentication, signed_digests
from ftplug_registry.signing.keys import PublicKey, checked, public_key
from ftplug_registry.signing.library import given_digests, library, stated
from ftplug_registry.signing.trusted import Trusted


def verify_by_key(bundle: Bundle, key: PublicKey) -> None:
    """Check a model's signature. Raises :class:`RegistryError` where the key did not make it."""
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "key.pub"
        pem.write_text(key.pem, encoding="ascii")
        config = library().verifying.Config()
        with stated(bundle.path, f"not signed by the key {key.fingerprint[:16]}"):
            _run(config.use_elliptic_key_verifier(public_key=pem), bundle, Path(folder))


def verify_by_authority(bundle: Bundle, authority: bytes) -> None:
    """Check a model's signature, whose certificates must lead to an authority (DER)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "authority.pem"
        certificate = x509.load_der_x509_certificate(authority)
        root.write_bytes(certificate.public_bytes(Encoding.PEM))
        config = library().verifying.Config()
        with stated(bundle.path, "its certificates do not lead to the authority"):
            _run(config.use_certificate_verifier(certificate_chain=[root]), bundle, Path(folder))


def verify_by_identity(bundle: Bundle, identity: str, issuer: str) -> None:
    """Check a signature of Sigstore's keyless way; without a network by the roots known here."""
    library()
    from sigstore.models import Bundle as SigstoreBundle
    from sigstore.verify import Verifier, policy

    with stated(bundle.path, f"not signed by {identity} at {issuer}"):
        parsed = SigstoreBundle.from_json(bundle.content)
        try:
            verifier = Verifier.production()
        except Exception as error:
            logger.debug("Sigstore's roots cannot be renewed: %s", error)
            verifier = Verifier.production(offline=True)
        _, payload = verifier.verify_dsse(parsed, policy.Identity(identity=identity, issuer=issuer))
        if payload != bundle.payload:
            raise RegistryError(f"{bundle.path}: two readers found two payloads in it")


def _run(config: Any, bundle: Bundle, folder: Path) -> None:
    """Let model-signing check the very bytes that were checked here before."""
    copy = folder / "model.sig"
    copy.write_bytes(bundle.content)
    digests = signed_digests(bundle)
    config.set_hashing_config(given_digests("model", digests, ())).verify(folder, copy)


def verified_by(bundle: Bundle, lines: Iterable[Trusted]) -> Trusted | None:
    """Return the first that made a model's signature, or None."""
    for line in lines:
        try:
            if line.key and bundle.kind == "publicKey":
                if line.key.fingerprint != bundle.hint:
                    continue
                verify_by_key(bundle, line.key)
            elif line.authority and bundle.kind == "x509CertificateChain":
                verify_by_authority(bundle, line.authority)
            elif line.issuer and bundle.kind == "certificate":
                verify_by_identity(bundle, line.who, line.issuer)
            else:
                continue
        except RegistryError as error:
            if line.key:  # the hint names this very key: it is forged or damaged
                raise
            logger.debug("%s: %s", line.where, error)
            continue
        return line
    return None


def key_of(bundle: Bundle) -> PublicKey:
    """Return the public key of a signer's certificate."""
    return checked(_certificate(bundle).public_key(), bundle.path)


def name_in(bundle: Bundle) -> str | None:
    """Return the subject of a signer's certificate, which anybody can write: verify it before."""
    if bundle.kind != "x509CertificateChain":
        return None
    with stated(bundle.path, "its certificate cannot be read"):
        return str(_certificate(bundle).subject.rfc4514_string())


def _certificate(bundle: Bundle) -> Any:
    from cryptography import x509

    with stated(bundle.path, "its certificate cannot be read"):
        return x509.load_der_x509_certificate(bundle.certificates[0])


def require_beside(bundle: Bundle, beside: Bundle) -> None:
    """Refuse a provenance that is of another model, or names another signer."""
    if beside.root_digest != bundle.root_digest:
        raise RegistryError(f"{beside.path}: the provenance of another artifact")
    same = (beside.kind, beside.hint, beside.certificates[:1]) == (
        *(bundle.kind, bundle.hint, bundle.certificates[:1]),
    )
    if not same:
        raise RegistryError(f"{beside.path}: not by the signer of {bundle.path}")
    if bundle.kind == "certificate":
        raise RegistryError(f"{beside.path}: provenance is signed by keys or certificates alone")


def verify_beside(bundle: Bundle, beside: Bundle, key: PublicKey | None) -> Mapping[str, Any]:
    """Return what a provenance says, once the signer of the model has signed it too."""
    by = key or key_of(bundle)
    if not by.verify(beside.signature, pre_authentication(beside.payload)):
        raise RegistryError(f"{beside.path}: not by the signer of {bundle.path}, or altered")
    return beside.predicate


def key_that_came(bundle: Bundle, beside: Bundle | None) -> PublicKey | None:
    """Return the public key that lies in the provenance, where it is the signature's own.

    It vouches for nobody; it lets whoever sees it first check, and recognize it later.
    """
    pem = beside.predicate.get("ftplug_publicKey") if beside else None
    if bundle.kind != "publicKey" or not beside or not isinstance(pem, str):
        return None
    if not pem.isascii():
        raise RegistryError(f"{beside.path}: its ftplug_publicKey is no PEM")
    key = public_key(pem.encode("ascii"), beside.path)
    if key.fingerprint != bundle.hint:
        raise RegistryError(f"{beside.path}: brings another key than {bundle.path} names")
    return key
