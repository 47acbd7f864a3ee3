"""Signing and verifying a folder: with upstream's own program, with no network, and attacked."""

import base64
import json
import os
import shutil
import subprocess
import sys

import pytest
import signers
from ftplug_registry import verify
from ftplug_registry.signing.making import Signer

import ftplug
from ftplug.artifacts.saving import annotate
from ftplug.errors import ArtifactError, FtplugError, RegistryError


def check(folder, key=None, **options):
    trusted = key[0].with_name(f"{key[0].name}.pub") if key else None
    return verify(folder, files_only=True, trusted=trusted, **options)


def upstream(*arguments):
    """Run ``model_signing``; returns its exit code and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "model_signing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_signed_artifact_is_verified_and_names_its_signer(signed, alice):
    found = check(signed, alice).signature
    assert (found.known, found.signer, found.key) == ("trusted", "alice", alice[1].fingerprint)
    assert found.where.endswith("alice.pub")
    named = {"ftplug.json", *json.loads((signed / "ftplug.json").read_text())["files"]}
    assert found.names == named
    assert "README.md" not in found.names


def test_nothing_of_the_artifact_changes_but_two_files(artifact, alice):
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    signers.signed(artifact, alice[0])
    after = {path.name: path.read_bytes() for path in artifact.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {
        "model.sig",
        "ftplug_provenance.sig",
    }


def test_upstream_verifies_ours_without_an_option(signed, alice, mallory):
    signature = ("--signature", signed / "model.sig", "--public_key")
    (signed / "README.md").write_text("edited since")
    code, said = upstream("verify", "key", signed, *signature, alice[0].with_name("alice.pub"))
    assert (code, said.strip()) == (0, "Verification succeeded")
    code, said = upstream("verify", "key", signed, *signature, mallory[0].with_name("mallory.pub"))
    assert code != 0
    (signed / "extra.txt").write_text("not signed")
    code, said = upstream("verify", "key", signed, *signature, alice[0].with_name("alice.pub"))
    assert code != 0
    assert "extra.txt" in said


@pytest.mark.parametrize("ignored", [[], ["README.md"]])
def test_ours_verifies_what_upstream_signed(artifact, alice, ignored):
    options = [part for name in ignored for part in ("--ignore-paths", artifact / name)]
    code, said = upstream(
        *("sign", "key", artifact, "--signature", artifact / "model.sig"),
        *("--private_key", alice[0], *options),
    )
    assert code == 0, said
    found = check(artifact, alice).signature
    assert (found.known, found.provenance) == ("trusted", None)
    assert ("README.md" in found.names) == (not ignored)
    with pytest.raises(RegistryError, match=r"whom .*mallory.pub does not name"):
        check(artifact, signers.key_pair(alice[0].parent, "mallory"))
    (artifact / "README.md").write_text("edited since")
    if ignored:
        check(artifact, alice)
    else:
        with pytest.raises(RegistryError, match=r"README.md is not what was signed"):
            check(artifact, alice)


def test_certificates_both_ways(artifact, tmp_path):
    paths = signers.certified(tmp_path, "carol")
    signer = Signer.of(paths["key"], certificate=paths["certificate"], chain=(paths["authority"],))
    from ftplug_registry.signing.making import sign

    sign(artifact, signer)
    found = verify(artifact, files_only=True, trusted=paths["authority"]).signature
    assert (found.known, found.signer) == ("trusted", "CN=carol (certified by carol)")
    assert found.provenance["buildDefinition"]["externalParameters"]["methods"][0]["name"] == "lora"
    code, said = upstream(
        *("verify", "certificate", artifact, "--signature", artifact / "model.sig"),
        *("--certificate_chain", paths["authority"]),
    )
    assert code == 0, said
    other = signers.certified(tmp_path, "mallory")
    with pytest.raises(RegistryError, match=r"signed by a certificate, whom .* does not name"):
        verify(artifact, files_only=True, trusted=other["authority"])
    found = verify(artifact, files_only=True).signature
    assert (found.known, found.signer) == ("unchecked", None)  # anybody may call himself carol
    assert "carol" not in found.said()
    with pytest.raises(RegistryError, match="by a certificate, for which nobody vouches"):
        verify(artifact, files_only=True, require_signature=True)


@pytest.mark.parametrize("raw", ["Z2FyYmFnZQ==", "MAA="])
def test_a_certificate_that_cannot_be_read_is_no_crash(signed, tmp_path, raw, typed):
    chain = {"certificates": [{"rawBytes": raw}]}
    material = {"x509CertificateChain": chain, "tlogEntries": []}
    for name in ("model.sig", "ftplug_provenance.sig"):
        signers.rewritten(signed / name, lambda one: one.update(verificationMaterial=material))
    found = verify(signed, files_only=True).signature
    assert (found.known, found.signer) == ("unchecked", None)
    authority = signers.certified(tmp_path, "carol")["authority"]
    for options in (("--trusted", authority), ("--require-signature",)):
        code, _, said = typed("verify", signed, "--files-only", *options)
        assert (code, len(said.splitlines())) == (1, 1)


@pytest.mark.parametrize("pem", ["\ud800", "\u00e9", "-----BEGIN PUBLIC KEY-----\n\ud800"])
def test_a_key_that_came_and_is_no_text_is_one_line(signed, pem, typed):
    def change(bundle):
        envelope = bundle["dsseEnvelope"]
        said = json.loads(base64.b64decode(envelope["payload"]))
        said["predicate"]["ftplug_publicKey"] = pem
        envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()

    signers.rewritten(signed / "ftplug_provenance.sig", change)
    code, _, said = typed("verify", signed, "--files-only")
    assert (code, len(said.splitlines())) == (1, 1)
    assert "ftplug_publicKey is no PEM" in said


def test_a_certificate_of_another_key_is_refused(artifact, alice, tmp_path):
    paths = signers.certified(tmp_path, "carol")
    signer = Signer.of(alice[0], certificate=paths["certificate"])
    from ftplug_registry.signing.making import sign

    with pytest.raises(RegistryError, match="does not match"):
        sign(artifact, signer)
    assert not (artifact / "model.sig").exists()
    with pytest.raises(RegistryError, match="goes with the --certificate"):
        Signer.of(alice[0], chain=(paths["authority"],))


def test_it_works_without_a_network(artifact, alice, monkeypatch):
    """Every socket to another host is refused: nothing of it is asked for."""
    import socket

    def refused(*args, **kwargs):
        raise AssertionError("no network")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    signers.signed(artifact, alice[0])
    assert check(artifact, alice).signature.known == "trusted"


def test_keyless_without_a_network_is_one_line(typed, artifact, monkeypatch, tmp_path):
    import socket

    def refused(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    code, _, said = typed("sign", artifact, "--keyless")
    assert code == 1
    assert len(said.splitlines()) == 1
    assert "sign with a --key, which needs no network" in said
    assert not (artifact / "model.sig").exists()


def test_sign_needs_to_know_by_what(typed, artifact, alice):
    for options in ([], ["--keyless", "--key", alice[0]]):
        code, _, said = typed("sign", artifact, *options)
        assert (code, "name a --key" in said) == (1, True)


# Attacks on a signed folder: what is done to it, and what the line must say.


def _other_content(folder, mallory):
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 4096)


def _of_another(folder, mallory):
    """Alter the weights, list them anew, as whoever may write to the folder can."""
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    from ftplug.artifacts.digests import file_entry

    text = json.loads((folder / "ftplug.json").read_text())
    text["files"][weights.name] = file_entry(weights)
    (folder / "ftplug.json").write_text(json.dumps(text, indent=2))


def _manifest_changed(folder, mallory):
    path = folder / "ftplug.json"
    path.write_text(path.read_text().replace('"train_head": true', '"train_head": false'))


def _manifest_reformatted(folder, mallory):
    path = folder / "ftplug.json"
    path.write_text(json.dumps(json.loads(path.read_text())))


def _extra(folder, mallory):
    (folder / "modeling_evil.py").write_text("import os")


def _hidden(folder, mallory):
    (folder / ".evil").write_text("import os")


def _odd_name(folder, mallory):
    (folder / "a\nb\u202e.txt").write_text("odd")


def _no_text_name(folder, mallory):
    os.close(os.open(os.fsencode(folder) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))


def _link_to_outside(folder, mallory):
    (folder / "beside").symlink_to("/etc/hostname")


def _link_to_a_folder(folder, mallory):
    (folder / "beside").symlink_to("/etc")


def _broken_link(folder, mallory):
    (folder / "beside").symlink_to("/nowhere")


def _pipe(folder, mallory):
    os.mkfifo(folder / "pipe.txt")


def _sub_folder(folder, mallory):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "x.json").write_text("{}")


def _swapped(folder, mallory):
    """The signature of another artifact by the same key."""
    other = shutil.copytree(folder, folder.with_name("other"))
    for name in ("model.sig", "ftplug_provenance.sig"):
        (other / name).unlink()
    annotate(other, notes="another")
    signers.signed(other, folder.parent / "alice")
    shutil.copy(other / "model.sig", folder)


def _provenance_swapped(folder, mallory):
    other = shutil.copytree(folder, folder.with_name("other"))
    for name in ("model.sig", "ftplug_provenance.sig"):
        (other / name).unlink()
    annotate(other, notes="another")
    signers.signed(other, folder.parent / "alice")
    shutil.copy(other / "ftplug_provenance.sig", folder)


def _provenance_by_mallory(folder, mallory):
    other = shutil.copytree(folder, folder.with_name("other"))
    signers.signed(other, mallory[0], replace=True)
    shutil.copy(other / "ftplug_provenance.sig", folder)


def _provenance_altered(folder, mallory):
    import base64

    def change(bundle):
        envelope = bundle["dsseEnvelope"]
        said = base64.b64decode(envelope["payload"]).replace(b'"lora"', b'"full"')
        envelope["payload"] = base64.b64encode(said).decode()

    signers.rewritten(folder / "ftplug_provenance.sig", change)


def _provenance_as_signature(folder, mallory):
    shutil.copy(folder / "ftplug_provenance.sig", folder / "model.sig")


def _by_mallory(folder, mallory):
    signers.signed(folder, mallory[0], replace=True)


def _mallorys_with_alices_hint(folder, mallory):
    hint = json.loads((folder / "model.sig").read_text())["verificationMaterial"]
    signers.signed(folder, mallory[0], replace=True)
    for name in ("model.sig", "ftplug_provenance.sig"):
        signers.rewritten(folder / name, lambda bundle: bundle.update(verificationMaterial=hint))


def _signature_gone(folder, mallory):
    (folder / "model.sig").unlink()


def _truncated(folder, mallory):
    path = folder / "model.sig"
    path.write_bytes(path.read_bytes()[:-100])


def _signature_flipped(folder, mallory):
    def change(bundle):
        one = bundle["dsseEnvelope"]["signatures"][0]
        one["sig"] = ("A" if one["sig"][20] != "A" else "B").join(
            (one["sig"][:20], one["sig"][21:])
        )

    signers.rewritten(folder / "model.sig", change)


def _huge(folder, mallory):
    with open(folder / "model.sig", "wb") as file:
        file.truncate(100 * 2**20)


def _deep(folder, mallory):
    (folder / "model.sig").write_text("[" * 100_000 + "]" * 100_000)


def _card_is_a_folder(folder, mallory):
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    (folder / "README.md" / "evil.py").write_text("import os")


def _signature_is_a_folder(folder, mallory):
    (folder / "model.sig").unlink()
    (folder / "model.sig").mkdir()


def _signature_is_a_pipe(folder, mallory):
    (folder / "model.sig").unlink()
    os.mkfifo(folder / "model.sig")


ATTACKS = {
    _other_content: "truncated or altered|sha256 differs",
    _of_another: "is not what was signed",
    _manifest_changed: "ftplug.json is not what was signed",
    _manifest_reformatted: "ftplug.json is not what was signed",
    _extra: "modeling_evil.py is there, but was not signed",
    _hidden: ".evil is there, but was not signed",
    _odd_name: "is there, but was not signed",
    _no_text_name: "is there, but was not signed",
    _link_to_outside: "beside is there, but was not signed",
    _link_to_a_folder: "beside is there, but was not signed",
    _broken_link: "beside is there, but was not signed",
    _pipe: "pipe.txt is there, but was not signed",
    _card_is_a_folder: "README.md/evil.py is there, but was not signed",
    _sub_folder: "deep/er/x.json is there, but was not signed",
    _swapped: "ftplug.json is not what was signed",
    _provenance_swapped: "the provenance of another artifact",
    _provenance_by_mallory: "not by the signer of",
    _provenance_altered: "not by the signer of .*, or altered",
    _provenance_as_signature: "predicateType is not",
    _by_mallory: "whom .*alice.pub does not name",
    _mallorys_with_alices_hint: "not signed by the key",
    _signature_gone: "not signed .no model.sig.",
    _truncated: "not readable as JSON",
    _signature_flipped: "not signed by the key",
    _huge: "too many for what it should be",
    _deep: "not readable as JSON|deeper than",
    _signature_is_a_folder: "no regular file|cannot be read",
    _signature_is_a_pipe: "no regular file",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.strip("_"))
def test_an_attack_is_refused_in_one_line(signed, alice, mallory, attack, typed):
    check(signed, alice)
    attack(signed, mallory)
    with pytest.raises(FtplugError, match=ATTACKS[attack]):
        check(signed, alice)
    trusted = alice[0].with_name("alice.pub")
    code, _, said = typed("verify", signed, "--files-only", "--trusted", trusted)
    assert (code, len(said.splitlines())) == (1, 1)
    if attack not in (_by_mallory, _signature_gone):  # those need somebody who is expected
        code, _, said = typed("verify", signed, "--files-only")
        assert (code, len(said.splitlines())) == (1, 1)


def test_the_card_may_be_edited_and_git_may_lie_beside(signed, alice):
    (signed / "README.md").write_text("edited")
    (signed / ".gitattributes").write_text("* text")
    (signed / ".git").mkdir()
    (signed / ".git" / "HEAD").write_text("ref")
    check(signed, alice)
    (signed / "README.md").unlink()
    check(signed, alice)


def test_what_a_stranger_signed_is_said_and_refused_where_asked(signed):
    found = check(signed).signature
    assert (found.known, found.signer, found.counts) == ("unknown", None, False)
    with pytest.raises(RegistryError, match="for which nobody vouches here"):
        check(signed, require_signature=True)


def test_a_line_for_repositories_says_nothing_of_a_folder(signed, alice, settings):
    settings.mkdir()
    signers.trusts(settings / "trusted_keys", "ann", alice[1], "repositories=alice/*")
    assert check(signed).signature.known == "unknown"
    signers.trusts(settings / "trusted_keys", "ann", alice[1])
    found = check(signed, require_signature=True).signature
    assert (found.known, found.signer) == ("trusted", "ann")


def test_signing_twice_asks(signed, alice, mallory):
    with pytest.raises(RegistryError, match=r"signed already.*--replace"):
        signers.signed(signed, mallory[0])
    check(signed, alice)
    signers.signed(signed, mallory[0], replace=True)
    check(signed, mallory)


def test_a_bill_of_materials_is_signed_with_the_rest(artifact, alice):
    (artifact / "ftplug_bom.cdx.json").write_text("{}")
    signers.signed(artifact, alice[0])
    assert "ftplug_bom.cdx.json" in check(artifact, alice).signature.names
    (artifact / "ftplug_bom.cdx.json").write_text("{ }")
    with pytest.raises(RegistryError, match=r"ftplug_bom.cdx.json is not what was signed"):
        check(artifact, alice)


@pytest.mark.parametrize("stray", ["notes.txt", ".hidden", "alice"])
def test_a_stray_is_not_signed(artifact, alice, stray):
    (artifact / stray).write_text("stray")
    with pytest.raises(RegistryError, match=f"{stray} is neither in the manifest nor part"):
        signers.signed(artifact, alice[0])


def test_nor_is_an_altered_artifact_or_one_of_links(artifact, alice):
    weights = artifact / "adapter_model.safetensors"
    moved = weights.rename(artifact.parent / "blob")
    weights.symlink_to(moved)
    with pytest.raises(RegistryError, match="is a link, as in a Hub's cache"):
        signers.signed(artifact, alice[0])
    weights.unlink()
    weights.write_bytes(moved.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated or altered"):
        signers.signed(artifact, alice[0])


def test_nothing_rewrites_a_signed_manifest(signed, alice, base):
    before = (signed / "ftplug.json").read_bytes()
    with pytest.raises(ArtifactError, match=r"is signed, .*remove .*model.sig first"):
        annotate(signed, notes="more")
    assert (signed / "ftplug.json").read_bytes() == before
    check(signed, alice)


def test_a_save_over_it_takes_the_signature_away(signed, base, caplog):
    from runs import shake
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(base)
    ftplug.save(shake(ftplug.apply(model, "lora", r=4)), signed)
    assert "was signed: what is saved over it is not" in caplog.text
    assert not (signed / "model.sig").exists()
    assert not (signed / "ftplug_provenance.sig").exists()
    assert check(signed).signature is None


def test_provenance_has_the_runs_facts_under_slsas_names(artifact, alice):
    annotate(
        artifact,
        training={
            "data": {"dataset": "org/data", "revision": "a" * 40, "train_rows": 8},
            "hyperparameters": {"learning_rate": 1e-3},
            "seed": 3,
        },
    )
    signers.signed(artifact, alice[0])
    said = check(artifact, alice).signature.provenance
    build = said["buildDefinition"]
    assert set(said) == {"buildDefinition", "runDetails", "ftplug_publicKey"}
    assert build["externalParameters"]["hyperparameters"] == {"learning_rate": 1e-3}
    assert build["internalParameters"] == {"seed": 3}
    dependencies = {one["name"]: one for one in build["resolvedDependencies"]}
    assert dependencies["data"]["digest"] == {"gitCommit": "a" * 40}
    assert dependencies["plugin"]["uri"] == f"pkg:pypi/ftplug@{ftplug.__version__}"
    assert said["runDetails"]["builder"]["id"] == f"pkg:pypi/ftplug@{ftplug.__version__}"
    assert str(artifact.parent) not in json.dumps(said)
    assert "level" not in json.dumps(said).lower()


def test_show_and_verify_name_the_signer_and_pull_does_not(typed, signed, alice, settings):
    settings.mkdir()
    signers.trusts(settings / "trusted_keys", "ann@example.org", alice[1])
    for command in (["show", signed], ["verify", signed, "--files-only"]):
        code, out, _ = typed(*command)
        assert code == 0
        assert "by ann@example.org, key" in out
        assert json.loads(typed(*command, "--json")[1])["signature"]["signer"] == "ann@example.org"
    assert b"ann@example.org" not in (signed / "README.md").read_bytes()
    (signed / "ftplug.json").write_text((signed / "ftplug.json").read_text() + "\n")
    code, out, said = typed("show", signed)
    assert code == 1
    assert "ann@example.org" not in out + said
