"""Keys, certificates and signed artifacts for the tests of signatures."""

import datetime
import json
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from ftplug_registry.signing.keys import generate
from ftplug_registry.signing.making import Signer, sign
from ftplug_registry.signing.trusted import line_for

PEM = serialization.Encoding.PEM


def key_pair(folder, name):
    """Make a key pair; returns the private key's path and the public key."""
    path = Path(folder) / name
    return path, generate(path, None)


def signed(artifact, key, **options):
    """Sign an artifact's folder and return it."""
    return sign(artifact, Signer.of(key), **options)


def trusts(path, who, public, option=""):
    """Write a file of trusted keys with one line."""
    first, _, rest = line_for(who, public).partition(" ")
    path.write_text(f"{first} {option}{' ' if option else ''}{rest}\n", encoding="utf-8")
    return path


def certified(folder, name="alice", years=40):
    """Make an authority, and a key with a certificate by it: their paths by name."""
    folder = Path(folder)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate("an authority", root_key.public_key(), None, root_key, years)
    leaf = _certificate(name, key.public_key(), root, root_key, years)
    raw = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths = {what: folder / f"{name}.{what}" for what in ("key", "certificate", "authority")}
    paths["key"].write_bytes(raw)
    paths["key"].chmod(0o600)
    paths["certificate"].write_bytes(leaf.public_bytes(PEM))
    paths["authority"].write_bytes(root.public_bytes(PEM))
    return paths


def _certificate(name, public, issuer, issuer_key, years):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begins = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    build = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + datetime.timedelta(days=365 * years))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(_usage(authority=issuer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if issuer is not None:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])
        build = build.add_extension(purposes, critical=False)
    return build.sign(issuer_key, hashes.SHA256())


def _usage(*, authority):
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    off = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **off
    )


def rewritten(path, change):
    """Change a signature file's JSON in place."""
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
