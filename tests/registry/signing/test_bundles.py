"""Signature files of strangers: the format's vectors, bounds, and ten thousand bent bytes."""

import base64
import json
import random
from pathlib import Path

import oms_vectors
import pytest
from ftplug_registry.signing import bundles, verifying
from ftplug_registry.signing.bundles import parse_bundle, read_bundle
from ftplug_registry.signing.keys import read_public
from ftplug_registry.signing.making import OMS
from ftplug_registry.signing.trusted import trusted

from ftplug.errors import RegistryError

VECTORS = Path(__file__).parent / "vectors"
FOUND = dict(oms_vectors.vectors(VECTORS))


def test_there_are_nine_vectors():
    assert sorted(FOUND.values()) == [False] * 6 + [True] * 3


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.name.partition(".")[0])
def test_a_vector_is_taken_or_refused(path):
    assert (oms_vectors.refusal(path) is None) == FOUND[path]


def test_the_valid_vectors_are_signed():
    key, root = read_public(VECTORS / "key.pub"), trusted(VECTORS / "authority.pem")
    by_key = read_bundle(VECTORS / "valid" / "key.bundle.json", OMS)
    verifying.verify_by_key(by_key, key)
    by_certificate = read_bundle(VECTORS / "valid" / "certificate.bundle.json", OMS)
    assert verifying.verified_by(by_certificate, root) is root[0]
    by_sigstore = read_bundle(VECTORS / "valid" / "sigstore.bundle.json", OMS)
    signed = bundles.pre_authentication(by_sigstore.payload)
    assert verifying.key_of(by_sigstore).verify(by_sigstore.signature, signed)


def test_an_invalid_payload_is_signed_and_refused_all_the_same():
    """Its key did sign it: what it says is what is wrong."""
    key = read_public(VECTORS / "key.pub")
    for path in (VECTORS / "invalid-payload").iterdir():
        envelope = json.loads(path.read_text())["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"])
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        assert key.verify(signature, bundles.pre_authentication(payload))


def test_a_vector_signs_the_model_beside_it():
    from ftplug.artifacts.digests import sha256

    digests = bundles.signed_digests(read_bundle(VECTORS / "valid" / "key.bundle.json", OMS))
    assert digests == {path.name: sha256(path) for path in (VECTORS / "model").iterdir()}


def test_the_script_for_the_specifications_own(capsys, tmp_path):
    assert oms_vectors.main(VECTORS) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "9 of 9 as they should"
    (tmp_path / "valid").mkdir()
    assert oms_vectors.main(tmp_path) == 1  # none found is no success
    (tmp_path / "valid" / "x.json").write_text("{}")
    assert oms_vectors.main(tmp_path) == 1


def bundle(kind="key"):
    return json.loads((VECTORS / "valid" / f"{kind}.bundle.json").read_text())


def refusal(content):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(RegistryError) as refused:
        bundles.signed_digests(parse_bundle(raw, OMS, "model.sig"))
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def with_statement(change):
    content = bundle()
    statement = json.loads(base64.b64decode(content["dsseEnvelope"]["payload"]))
    change(statement)
    payload = base64.b64encode(json.dumps(statement).encode()).decode()
    content["dsseEnvelope"]["payload"] = payload
    return content


def test_bounds():
    deep = bundle()
    deep["more"] = json.loads("[" * 40 + "]" * 40)
    assert "deeper than 32" in refusal(deep)
    assert "not readable as JSON" in refusal(b"[" * 100_000 + b"]" * 100_000)
    inner = with_statement(lambda said: said.update(more=json.loads("[" * 40 + "]" * 40)))
    assert "deeper than 32" in refusal(inner)
    chain = bundle("certificate")
    certificates = chain["verificationMaterial"]["x509CertificateChain"]["certificates"]
    certificates *= 5
    assert "10 certificates, and not 1 to 8" in refusal(chain)
    certificates.clear()
    assert "0 certificates" in refusal(chain)
    logs = bundle("sigstore")
    logs["verificationMaterial"]["tlogEntries"] *= 5
    assert "more than 4 tlogEntries" in refusal(logs)
    two = bundle()
    two["dsseEnvelope"]["signatures"] *= 2
    assert "it has 2 signatures" in refusal(two)


def test_what_two_readers_might_read_in_two_ways():
    text = json.dumps(bundle())
    twice = text.replace('"mediaType"', '"mediaType": "x", "mediaType"', 1)
    assert "a name stands twice" in refusal(twice.encode())
    assert "NaN is no JSON" in refusal(text.replace('"keyid": ""', '"keyid": NaN').encode())
    assert "not readable as JSON" in refusal(text.encode("utf-16"))
    both = bundle()
    both["verificationMaterial"] |= bundle("certificate")["verificationMaterial"]
    assert "neither a key nor certificates" in refusal(both)
    spaced = bundle()
    spaced["dsseEnvelope"]["payload"] += "\n"
    assert "is no base64" in refusal(spaced)


def _resource(**changed):
    return lambda said: said["predicate"]["resources"][0].update(changed)


STATEMENTS = {
    "the same name twice": (
        lambda said: said["predicate"]["resources"].append(said["predicate"]["resources"][0]),
        "is no file with a sha256",
    ),
    "another algorithm": (_resource(algorithm="blake2b"), "is no file with a sha256"),
    "a digest of another length": (_resource(digest="ab"), "has no sha256"),
    "upper case": (_resource(digest="A" * 64), "has no sha256"),
    "no name": (_resource(name=None), "is no file"),
    "shards": (
        lambda said: said["predicate"]["serialization"].update(method="shards"),
        "verify it",
    ),
    "two subjects": (lambda said: said["subject"].append(said["subject"][0]), "not one name"),
    "no subject": (lambda said: said.update(subject=[]), "not one name"),
    "another type": (lambda said: said.update(_type="x"), "its statement is not"),
    "a list for a predicate": (lambda said: said.update(predicate=[]), "predicate is missing"),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements_that_say_it_wrong(name):
    change, match = STATEMENTS[name]
    assert match in refusal(with_statement(change))


def test_a_hint_may_be_a_key_as_before_1_1():
    old = bundle()
    key = read_public(VECTORS / "key.pub")
    raw = base64.b64encode(key.pem.encode()).decode()
    old["verificationMaterial"]["publicKey"] = {"rawBytes": raw, "keyDetails": "x"}
    parsed = parse_bundle(json.dumps(old).encode(), OMS, "model.sig")
    assert parsed.hint == key.fingerprint
    verifying.verify_by_key(parsed, key)


@pytest.mark.parametrize("kind", ["key", "certificate", "sigstore"])
def test_bent_bytes_end_in_one_line_or_in_the_same_statement(kind):
    """Whatever is changed: refused, or it still says what was signed, in which case it may pass."""
    sound = (VECTORS / "valid" / f"{kind}.bundle.json").read_bytes()
    said = parse_bundle(sound, OMS, "x").payload
    draw = random.Random(0)
    refused = unchanged = 0
    for _ in range(2000):
        bent = bytearray(sound)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(bent))
            match draw.randrange(3):
                case 0:
                    bent[at] = draw.randrange(256)
                case 1:
                    del bent[at : at + draw.randrange(1, 40)]
                case _:
                    bent[at:at] = bytes(draw.choices(b'{}[]",:0\\u\xff', k=3))
        try:
            parsed = parse_bundle(bytes(bent), OMS, "x")
            bundles.signed_digests(parsed)
        except RegistryError:  # and nothing else
            refused += 1
            continue
        assert parsed.statement["predicateType"] == OMS
        unchanged += parsed.payload == said
    assert unchanged > 0
    assert refused > 1000


@pytest.mark.parametrize("seed", range(3))
def test_no_bent_statement_is_verified(seed):
    """Of bent bundles that are well-formed only one with the very statement is signed."""
    key = read_public(VECTORS / "key.pub")
    sound = (VECTORS / "valid" / "key.bundle.json").read_bytes()
    original = parse_bundle(sound, OMS, "x")
    draw = random.Random(seed)
    tried = 0
    while tried < 15:
        bent = bytearray(sound)
        bent[draw.randrange(len(bent))] = draw.choice(b"ABCabc0123")
        try:
            parsed = parse_bundle(bytes(bent), OMS, "x")
            bundles.signed_digests(parsed)
        except RegistryError:
            continue
        tried += 1
        same = (parsed.payload, parsed.hint) == (original.payload, original.hint)
        try:
            verifying.verify_by_key(parsed, key)
        except RegistryError:
            continue
        assert same
