"""Key pairs: what is written, what is read, and what is refused in one line."""

import os
import stat

import pytest
import signers
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from ftplug_registry.signing import keys
from ftplug_registry.signing.making import Signer
from ftplug_registry.signing.pins import Pin

from ftplug.errors import RegistryError

NOBODY = {"passphrase": lambda path: None}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def private_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def public_pem(key):
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@pytest.mark.parametrize("curve", ["P-256", "P-384", "P-521"])
def test_a_pair_is_read_back_as_it_was_made(tmp_path, curve):
    made = keys.generate(tmp_path / "key", None, curve)
    assert mode(tmp_path / "key") == 0o600
    assert keys.read_public(tmp_path / "key.pub") == made
    private = keys.read_private(tmp_path / "key", lambda: None)
    assert keys.checked(private.public_key(), "key") == made
    assert keys.public_key(made.openssh.encode(), "line") == made


@pytest.mark.parametrize("pem", ["\u00e9", "\ud800", ""])
def test_a_pin_whose_key_is_no_text_has_another_fingerprint(pem):
    pinned = Pin("e", "ann/a", "k", pem, None)
    assert pinned.public_keys() == {}


def test_the_private_key_is_private_from_the_first_byte(tmp_path, monkeypatch):
    """Whatever the umask: the mode is the file's own when it is made."""
    seen = []
    write = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda fd, *a: seen.append(os.fstat(fd)) or write(fd, *a))
    before = os.umask(0)
    try:
        keys.generate(tmp_path / "key", None)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(one.st_mode) for one in seen] == [0o600, 0o644]


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_no_key_is_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(RegistryError, match="no key is overwritten"):
        keys.generate(tmp_path / "key", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [there]
    assert (tmp_path / there).read_text() == "mine"


def test_nor_is_a_link_followed(tmp_path):
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RegistryError, match="no key is overwritten"):
        keys.generate(tmp_path / "key", None)
    assert not (tmp_path / "elsewhere").exists()


def test_a_passphrase_opens_the_key_and_a_wrong_one_does_not(tmp_path):
    made = keys.generate(tmp_path / "key", "correct horse")
    assert b"ENCRYPTED" in (tmp_path / "key").read_bytes()
    opened = Signer.of(tmp_path / "key", passphrase=lambda path: "correct horse")
    assert opened.public == made
    assert "correct horse" not in repr(opened)
    with pytest.raises(RegistryError, match="the passphrase does not open this key") as refused:
        Signer.of(tmp_path / "key", passphrase=lambda path: "battery staple")
    assert "battery" not in str(refused.value)
    with pytest.raises(RegistryError, match="set FTPLUG_KEY_PASSPHRASE"):
        Signer.of(tmp_path / "key", **NOBODY)


def test_the_environment_holds_the_passphrase(typed, tmp_path, artifact, monkeypatch):
    monkeypatch.setenv("FTPLUG_KEY_PASSPHRASE", "correct horse")
    assert typed("keygen", tmp_path / "key")[0] == 0
    assert typed("sign", artifact, "--key", tmp_path / "key")[0] == 0
    monkeypatch.delenv("FTPLUG_KEY_PASSPHRASE")
    code, _, said = typed("sign", artifact, "--key", tmp_path / "key", "--replace")
    assert code == 1
    assert "set FTPLUG_KEY_PASSPHRASE" in said


WRONG = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
}


@pytest.mark.parametrize("kind", WRONG)
def test_other_kinds_of_keys_are_named(tmp_path, kind):
    key = WRONG[kind]()
    path = tmp_path / "key"
    path.write_bytes(private_pem(key))
    path.chmod(0o600)
    with pytest.raises(RegistryError, match=f"{kind}.*ECDSA over P-256"):
        Signer.of(path, **NOBODY)
    path.write_bytes(public_pem(key))
    with pytest.raises(RegistryError, match=f"{kind}.*ECDSA over P-256"):
        keys.read_public(path)


def test_a_key_that_others_may_read_is_warned_about(alice, caplog):
    path, _ = alice
    Signer.of(path, **NOBODY)
    assert not caplog.records
    path.chmod(0o644)
    Signer.of(path, **NOBODY)
    assert "others may read this key (644)" in caplog.text


def test_what_is_no_key(tmp_path, alice):
    path, _ = alice
    public = path.with_name("alice.pub")
    with pytest.raises(RegistryError, match="a public key: signing takes the private one"):
        Signer.of(public, **NOBODY)
    with pytest.raises(RegistryError, match="a private key, which stays with its owner"):
        keys.read_public(path)
    for name, content in {"empty": b"", "junk": b"\x00\xff", "cut": path.read_bytes()[:80]}.items():
        (tmp_path / name).write_bytes(content)
        for read in (keys.read_public, lambda one: Signer.of(one, **NOBODY)):
            with pytest.raises(RegistryError, match=r"that can be read|stays with its owner"):
                read(tmp_path / name)
    with pytest.raises(RegistryError, match="cannot be read: No such file"):
        keys.read_public(tmp_path / "none")
    with pytest.raises(RegistryError, match=r"cannot be read|no regular file"):
        keys.read_public(tmp_path)
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    with pytest.raises(RegistryError, match="too many for what it should be"):
        keys.read_public(tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RegistryError, match="no regular file"):
        keys.read_public(tmp_path / "pipe")


def test_keygen_prints_a_line_that_trusted_keys_takes(typed, tmp_path):
    from ftplug_registry.signing.trusted import trusted

    code, out, _ = typed("keygen", tmp_path / "key", "--curve", "P-384")
    assert code == 0
    (tmp_path / "list").write_text(out.splitlines()[-1].replace("YOUR-NAME", "ann"))
    (line,) = trusted(tmp_path / "list")
    assert (line.who, line.key) == ("ann", keys.read_public(tmp_path / "key.pub"))
    assert line.key.fingerprint in out
    code, _, said = typed("keygen", tmp_path / "other", "--curve", "P-1")
    assert (code, "one of P-256" in said) == (1, True)


def test_a_passphrase_never_comes_by_the_command_line(typed):
    for command in ("keygen", "sign", "push"):
        text = typed(command, "--help")[1]
        assert "--passphrase <" not in text
        assert "--password" not in text


def test_the_fingerprint_is_upstreams_hint(artifact, alice):
    import json

    path, public = alice
    signers.signed(artifact, path)
    bundle = json.loads((artifact / "model.sig").read_text())
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == public.fingerprint
