"""A signature file: a Sigstore bundle with one DSSE envelope around an in-toto statement.

What a stranger wrote is bounded and checked here, before any library sees it; the format is
`OpenSSF model signing 1.0 <https://github.com/ossf/model-signing-spec>`_.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftplug.errors import RegistryError, one_line
from ftplug_registry.signing.keys import PublicKey, public_key, read_bounded

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
LARGEST = 4 * 2**20  # bytes: a signature has some hundred for each file
_DEEPEST = 32
_MOST_CERTIFICATES = 8
_MOST_LOG_ENTRIES = 4
_HEX = re.compile(r"[0-9a-f]{64}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]*={0,2}")
_KINDS = ("publicKey", "x509CertificateChain", "certificate")


@dataclass(frozen=True)
class Bundle:
    """A signature, well-formed and not yet verified.

    ``kind`` is ``publicKey``, ``x509CertificateChain`` or ``certificate`` (Sigstore's). ``hint`` is
    the fingerprint of the key, where it is one; ``certificates`` are DER, the signer's own first.
    """

    path: Path | str
    content: bytes
    kind: str
    hint: str | None
    certificates: tuple[bytes, ...]
    payload: bytes
    signature: bytes
    statement: Mapping[str, Any]

    @property
    def root_digest(self) -> str:
        """The sha256 of the model as the subject has it."""
        return str(self.statement["subject"][0]["digest"]["sha256"])

    @property
    def predicate(self) -> Mapping[str, Any]:
        """What the statement says of its subject."""
        predicate: Mapping[str, Any] = self.statement["predicate"]
        return predicate


def read_bundle(path: Path, predicate_type: str) -> Bundle:
    """Read a signature file. Raises :class:`RegistryError` in one line for all that is none."""
    return parse_bundle(read_bounded(path, LARGEST), predicate_type, path)


def parse_bundle(content: bytes, predicate_type: str, path: Path | str) -> Bundle:
    """Return the bundle of a signature file's bytes."""
    bundle = _object(bounded_json(content, path), "the bundle", path)
    if bundle.get("mediaType") != MEDIA_TYPE:
        raise _refusal(path, f"its mediaType is not {MEDIA_TYPE}")
    material = _object(bundle.get("verificationMaterial"), "verificationMaterial", path)
    envelope = _object(bundle.get("dsseEnvelope"), "dsseEnvelope", path)
    kind, hint, certificates = _material(material, path)
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise _refusal(path, f"its payloadType is not {PAYLOAD_TYPE}")
    payload = _decoded(envelope.get("payload"), "payload", path)
    signatures = _list(envelope.get("signatures"), "signatures", path)
    if len(signatures) != 1:
        raise _refusal(path, f"it has {len(signatures)} signatures, and not one")
    signature = _decoded(_object(signatures[0], "signatures", path).get("sig"), "sig", path)
    statement = _statement(bounded_json(payload, path), predicate_type, path)
    return Bundle(path, content, kind, hint, certificates, payload, signature, statement)


def pre_authentication(payload: bytes) -> bytes:
    """Return the bytes that are signed: DSSE's encoding of type and payload, version 1."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def bounded_json(content: bytes, path: Path | str) -> Any:
    """Read JSON of a stranger: UTF-8, no name twice, no NaN, not deeper than 32."""
    try:
        value = json.loads(
            content.decode("utf-8"), object_pairs_hook=_no_name_twice, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise _refusal(path, f"not readable as JSON: {one_line(error)}") from None
    level, depth = [value], 0
    while level:
        if (depth := depth + 1) > _DEEPEST:
            raise _refusal(path, f"its JSON is deeper than {_DEEPEST}")
        nested = [list(v.values()) if isinstance(v, dict) else v for v in level]
        level = [one for v in nested if isinstance(v, list) for one in v]
    return value


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # two readers would not read the same
        raise ValueError("a name stands twice in one object")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _material(
    material: Mapping[str, Any], path: Path | str
) -> tuple[str, str | None, tuple[bytes, ...]]:
    kinds = [kind for kind in _KINDS if kind in material]
    if len(kinds) != 1:
        raise _refusal(path, "its verificationMaterial names neither a key nor certificates")
    logs = _list(material.get("tlogEntries", []), "tlogEntries", path)
    if len(logs) > _MOST_LOG_ENTRIES:
        raise _refusal(path, f"more than {_MOST_LOG_ENTRIES} tlogEntries")
    kind = kinds[0]
    what = _object(material[kind], kind, path)
    if kind == "publicKey":
        return kind, _hint(what, path), ()
    if kind == "certificate" and not logs:
        raise _refusal(path, "a certificate of Sigstore's without tlogEntries")
    chain = [what] if kind == "certificate" else _list(what.get("certificates"), kind, path)
    if not 0 < len(chain) <= _MOST_CERTIFICATES:
        raise _refusal(path, f"{len(chain)} certificates, and not 1 to {_MOST_CERTIFICATES}")
    raw = [_decoded(_object(c, kind, path).get("rawBytes"), "rawBytes", path) for c in chain]
    return kind, None, tuple(raw)


def _hint(key: Mapping[str, Any], path: Path | str) -> str:
    """Return the fingerprint of the key; before 1.1 model-signing wrote the key itself."""
    hint = key.get("hint")
    if hint is None and "rawBytes" in key:
        return public_key(_decoded(key["rawBytes"], "rawBytes", path), path).fingerprint
    if not isinstance(hint, str) or not _HEX.fullmatch(hint):
        raise _refusal(path, "its publicKey has no hint of 64 hex digits")
    return hint


def _statement(statement: Any, predicate_type: str, path: Path | str) -> Mapping[str, Any]:
    said = _object(statement, "the statement", path)
    if said.get("_type") != STATEMENT:
        raise _refusal(path, f"its statement is not {STATEMENT}")
    if said.get("predicateType") != predicate_type:
        raise _refusal(path, f"its statement's predicateType is not {predicate_type}")
    subjects = _list(said.get("subject"), "subject", path)
    subject = _object(subjects[0], "subject", path) if len(subjects) == 1 else {}
    digest = subject.get("digest")
    digest = digest.get("sha256") if isinstance(digest, dict) else None
    named = isinstance(subject.get("name"), str)
    if not named or not isinstance(digest, str) or not _HEX.fullmatch(digest):
        raise _refusal(path, "its statement's subject is not one name with a sha256")
    _object(said.get("predicate"), "predicate", path)
    return said


def signed_digests(bundle: Bundle) -> dict[str, str]:
    """Return ``{name: sha256}`` of what a model's signature covers; checked against its root."""
    how = _object(bundle.predicate.get("serialization"), "serialization", bundle.path)
    if (how.get("method"), how.get("hash_type")) != ("files", "sha256"):
        raise _refusal(
            bundle.path,
            "it lists other digests than the sha256 of whole files: verify it by model_signing",
        )
    digests: dict[str, str] = {}
    for entry in _list(bundle.predicate.get("resources"), "resources", bundle.path):
        one = _object(entry, "resources", bundle.path)
        name, digest = one.get("name"), one.get("digest")
        if not isinstance(name, str) or one.get("algorithm") != "sha256" or name in digests:
            raise _refusal(bundle.path, f"its resource {str(name)[:80]!r} is no file with a sha256")
        if not isinstance(digest, str) or not _HEX.fullmatch(digest):
            raise _refusal(bundle.path, f"its resource {name[:80]!r} has no sha256")
        digests[name] = digest
    in_order = b"".join(bytes.fromhex(digest) for digest in digests.values())
    if hashlib.sha256(in_order).hexdigest() != bundle.root_digest:
        raise _refusal(bundle.path, "its digests do not add up to its subject's")
    return digests


def _decoded(text: Any, what: str, path: Path | str) -> bytes:
    try:
        raw = text.encode("ascii") if isinstance(text, str) and text else b""
        if not raw or not _BASE64.fullmatch(raw):
            raise binascii.Error("no base64")
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise _refusal(path, f"its {what} is no base64") from None


def _object(value: Any, what: str, path: Path | str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refusal(path, f"{what} is missing or no object")
    return value


def _list(value: Any, what: str, path: Path | str) -> list[Any]:
    if not isinstance(value, list):
        raise _refusal(path, f"{what} is missing or no list")
    return value


def _refusal(path: Path | str, why: str) -> RegistryError:
    return RegistryError(f"{path}: no signature of OpenSSF model signing 1.0: {why}")


def key_bundle(statement: Mapping[str, Any], private: Any, public: PublicKey) -> bytes:
    """Return the bundle of a statement signed with a key, as JSON."""
    from ftplug_registry.signing.keys import ecdsa

    payload = json.dumps(statement, indent=2, sort_keys=True).encode("utf-8")
    signature = private.sign(pre_authentication(payload), ecdsa(private))
    return _bundle({"publicKey": {"hint": public.fingerprint}}, payload, signature)


def with_material(content: bytes, material: Mapping[str, Any]) -> bytes:
    """Return a bundle with other verification material: the certificates of its key."""
    return json.dumps(json.loads(content) | {"verificationMaterial": material}).encode("utf-8")


def _bundle(material: Mapping[str, Any], payload: bytes, signature: bytes) -> bytes:
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {**material, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
        },
    }
    return json.dumps(bundle).encode("utf-8")
