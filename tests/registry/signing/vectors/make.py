"""Make this folder's vectors anew: three bundles that are valid and six that are not.

They are shaped as those of OpenSSF model signing's specification 1.0, with keys and a model of our
own: ``python make.py`` beside this file. The private keys are thrown away. The bundle of Sigstore's
shape has a certificate and a log entry that no real instance vouches for.
"""

import base64
import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "support")]

import signers  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding  # noqa: E402
from ftplug_registry.signing.bundles import key_bundle  # noqa: E402
from ftplug_registry.signing.making import Signer  # noqa: E402
from model_signing import hashing, signing  # noqa: E402

MODEL = HERE / "model"


def main():
    with tempfile.TemporaryDirectory() as folder:
        key, _ = signers.key_pair(folder, "key")
        paths = signers.certified(folder, "certified")
        shutil.copy(f"{key}.pub", HERE / "key.pub")
        shutil.copy(paths["authority"], HERE / "authority.pem")
        by_key = _bundle(signing.Config().use_elliptic_key_signer(private_key=key))
        by_certificate = _bundle(
            signing.Config().use_certificate_signer(
                private_key=paths["key"],
                signing_certificate=paths["certificate"],
                certificate_chain=[paths["authority"]],
            )
        )
        signer = Signer.of(key)
        statements = {
            "wrong-predicate": _with(
                by_key, signer, predicateType="https://example.com/wrong-predicate/v1.0"
            ),
            "wrong-root-digest": _with(by_key, signer, subject=_other_subject()),
        }
        leaf = x509.load_pem_x509_certificate(paths["certificate"].read_bytes())
    valid = {
        "key": by_key,
        "certificate": by_certificate,
        "sigstore": _as_sigstore(by_certificate, leaf),
    }
    for name, bundle in valid.items():
        _write("valid", name, bundle)
    (HERE / "invalid").mkdir(exist_ok=True)
    (HERE / "invalid" / "empty.bundle.json").write_bytes(b"")
    for missing in ("dsseEnvelope", "verificationMaterial"):
        rest = {name: value for name, value in by_key.items() if name != missing}
        name = "envelope" if missing == "dsseEnvelope" else "verification-material"
        _write("invalid", f"missing-{name}", rest)
    without_log = json.loads(json.dumps(valid["sigstore"]))
    del without_log["verificationMaterial"]["tlogEntries"]
    _write("invalid", "missing-tlog-entries", without_log)
    for name, statement in statements.items():
        _write("invalid-payload", name, statement)


def _bundle(config):
    config.set_hashing_config(hashing.Config())
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.sig"
        config.sign(MODEL, written)
        return json.loads(written.read_text("utf-8"))


def _as_sigstore(bundle, leaf):
    raw = base64.b64encode(leaf.public_bytes(Encoding.DER)).decode("ascii")
    entry = {
        "logIndex": "1",
        "logId": {"keyId": base64.b64encode(bytes(32)).decode("ascii")},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": "1767225600",
        "canonicalizedBody": base64.b64encode(b"{}").decode("ascii"),
    }
    return bundle | {
        "verificationMaterial": {"certificate": {"rawBytes": raw}, "tlogEntries": [entry]}
    }


def _with(bundle, signer, **changed):
    """Return a bundle whose statement says something else, by the same key: it is what is wrong."""
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"])) | changed
    return json.loads(key_bundle(statement, signer.private, signer.public))


def _other_subject():
    return [{"name": "model", "digest": {"sha256": "0" * 64}}]


def _write(kind, name, bundle):
    path = HERE / kind / f"{name}.bundle.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(bundle, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
