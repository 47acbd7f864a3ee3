"""Whom a person trusts: lines, single keys, folders of both."""

import base64

import pytest
import signers
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from ftplug_registry.signing.trusted import line_for, trusted

from ftplug.errors import RegistryError


def test_lines_say_who_which_key_and_which_repositories(tmp_path, alice):
    _, key = alice
    text = f"""
# a comment

alice@example.org {key.openssh} at work
"Alice L." repositories="alice/*,team/one" {key.openssh}
bob sigstore https://accounts.google.com
"""
    (tmp_path / "keys").write_text(text)
    first, second, third = trusted(tmp_path / "keys")
    assert (first.who, first.key, first.repositories) == ("alice@example.org", key, ())
    assert first.where.endswith("keys, line 4")
    assert first.counts_for("any/thing")
    assert first.counts_for(None)
    assert not first.names("any/thing")
    assert (second.who, second.repositories) == ("Alice L.", ("alice/*", "team/one"))
    assert [second.counts_for(one) for one in ("Alice/x", "team/one", "team/two", None)] == [
        True, True, False, False,
    ]  # fmt: skip
    assert (third.issuer, third.key) == ("https://accounts.google.com", None)


def test_keys_certificates_and_folders(tmp_path, alice):
    path, key = alice
    public = path.with_name("alice.pub")
    (one,) = trusted(public)
    assert (one.who, one.key) == ("alice", key)
    paths = signers.certified(tmp_path, "carol")
    (authority,) = trusted(paths["authority"])
    der = x509.load_pem_x509_certificate(paths["authority"].read_bytes())
    raw = der.public_bytes(Encoding.DER)
    assert authority.authority == raw
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "alice.pub").write_bytes(public.read_bytes())
    (folder / "list").write_text(f"carol x509 {base64.b64encode(raw).decode()}\n")
    (folder / ".hidden").write_text("junk")
    assert [line.who for line in trusted(folder)] == ["alice", "carol"]
    assert trusted(folder)[1].pinned == authority.pinned


MALFORMED = {
    "alice": "write WHO",
    "alice ecdsa-sha2-nistp256": "write WHO",
    "alice ecdsa-sha2-nistp256 AAAA": "no public key that can be read",
    "alice ssh-rsa AAAA": "no public key that can be read",
    "alice namespaces=git KEY": "no option named 'namespaces'",
    "alice repositories= KEY": "repositories= names none",
    'alice "repositories=x KEY': "no closing quotation",
    "alice repositories=ann/x, ann/u KEY": "no pattern of repositories",
    'alice repositories="ann/x ann/u" KEY': "no pattern of repositories",
    'alice repositories="ann/*" repositories="*" KEY': "stands twice",
    'alice repositories="ann/*,!ann/own" KEY': "'!ann/own', which is no pattern .* cannot be told",
    'alice repositories="ann/[ab" KEY': "no pattern of repositories",
    'alice repositories="ann/[]" KEY': "no pattern of repositories",
    'alice KEY repositories="ann/*"': "stands behind the key",
    'repositories="zzz/*" KEY': "WHO is missing",
    "KEY": "WHO is missing",
    '"" KEY': "WHO is missing",
    "x509 AAAA": "WHO is missing",
    "alice sigstore http://plain": "https:// address",
    "alice x509 AAAA": "no certificate",
    "alice x509 !": "no certificate",
}


@pytest.mark.parametrize("line", MALFORMED)
def test_a_malformed_line_is_named_by_its_number(tmp_path, alice, line):
    good = line_for("bob", alice[1])
    bad = line.replace("KEY", alice[1].openssh)
    (tmp_path / "keys").write_text(f"{good}\n# comment\n{bad}\n")
    with pytest.raises(RegistryError, match=MALFORMED[line]) as refused:
        trusted(tmp_path / "keys")
    assert "keys, line 3: " in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ("ann KEY Ann's laptop", "ann"),
        ('ann KEY the "laptop', "ann"),
        ("ann KEY -----BEGIN a comment", "ann"),
        ("\ufeffann KEY", "ann"),
        ("DOMAIN\\ann KEY", "DOMAIN\\ann"),
        ("O'Hara KEY", "O'Hara"),
        ("# -----BEGIN\nann KEY", "ann"),
        ("# a\rann KEY", "ann"),
        ("ann KEY a\u2028eve KEY", "ann"),
    ],
)
def test_what_stands_in_a_line_is_read_as_it_stands(tmp_path, alice, line, who):
    (tmp_path / "keys").write_bytes(line.replace("KEY", alice[1].openssh).encode())
    (found,) = trusted(tmp_path / "keys")
    assert (found.who, found.key, found.repositories) == (who, alice[1], ())


def test_blanks_after_commas_belong_to_no_pattern(tmp_path, alice):
    (tmp_path / "keys").write_text(f'ann repositories="ann/x, ann/u" {alice[1].openssh}\n')
    (found,) = trusted(tmp_path / "keys")
    assert found.repositories == ("ann/x", "ann/u")
    assert found.names("ann/u")


def test_no_key_of_a_file_is_left_out(tmp_path, alice):
    path, key = alice
    pem, line = path.with_name("alice.pub").read_text(), line_for("bob", key)
    several = {
        f"{pem}{pem}": "2 keys in one file",
        f"{line}\n{pem}": "keys, line 1: a line WHO KIND KEY beside a key in PEM",
        f"{pem}\n{line}\n": r"keys, line \d: a line WHO KIND KEY beside a key in PEM",
        f'bob repositories="x/y" x509 AAAA\n{pem}': "keys, line 1: a line",
    }
    authority = signers.certified(tmp_path, "carol")["authority"].read_text()
    several[f"{authority}{pem}"] = "certificates and PUBLIC KEY in one file"
    several[authority + authority[:60]] = "2 certificates begin|no certificate in it"
    for content, why in several.items():
        (tmp_path / "keys").write_text(content)
        with pytest.raises(RegistryError, match=why) as refused:
            trusted(tmp_path / "keys")
        assert len(str(refused.value).splitlines()) == 1
    (tmp_path / "keys").write_text(f"Bag Attributes\n{pem}")
    assert trusted(tmp_path / "keys")[0].key == key


def test_a_file_that_names_nobody_is_no_trust(tmp_path):
    (tmp_path / "keys").write_text("# nobody\n")
    with pytest.raises(RegistryError, match="names nobody"):
        trusted(tmp_path / "keys")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RegistryError, match="names nobody"):
        trusted(tmp_path / "folder")
    with pytest.raises(RegistryError, match="cannot be read"):
        trusted(tmp_path / "none")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RegistryError, match="neither text nor PEM"):
        trusted(tmp_path / "bytes")


def test_without_a_file_the_users_own_counts(settings, alice):
    assert trusted(None) == ()
    settings.mkdir()
    signers.trusts(settings / "trusted_keys", "ann", alice[1])
    assert [line.who for line in trusted(None)] == ["ann"]


def test_a_private_key_by_mistake(alice):
    with pytest.raises(RegistryError, match="a private key, which stays with its owner"):
        trusted(alice[0])
