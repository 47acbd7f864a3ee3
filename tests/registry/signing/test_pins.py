"""Repositories: signed when published, pinned when first seen, rotated, never another's."""

import itertools
import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import signers
from ftplug_registry import pull, push, show, verify
from ftplug_registry.pulling.fetching import snapshot
from ftplug_registry.signing.making import Signer
from ftplug_registry.signing.pins import Pin, Repository, pin, pin_of

import ftplug
from ftplug.artifacts.saving import annotate
from ftplug.errors import ArtifactError, FtplugError, RegistryError


@pytest.fixture
def publish(artifact, repo_id, hub):
    """Return ``publish(key)``: publish another version, signed or not; returns its commit."""
    versions = iter(range(100))

    def publish(key=None, **options):
        annotate(artifact, notes=f"version {next(versions)}")
        sign = Signer.of(key[0]) if key else None
        return push(artifact, repo_id, hub=hub, sign=sign, **options).sha

    return publish


@pytest.fixture
def pulled(repo_id, hub):
    """Return ``pulled(revision)``: how the signature of a revision is known."""

    def pulled(revision=None, **options):
        signed = snapshot(repo_id, revision, hub=hub, **options).signed
        return signed and signed.known

    return pulled


def demand(**options):
    from ftplug_registry.signing.checking import Demand

    return {"demand": Demand(**options)}


def refuses(call, *args, match, **options):
    with pytest.raises(RegistryError, match=match) as refused:
        call(*args, **options)
    assert len(str(refused.value).splitlines()) == 1


def pin_file(settings):
    (path,) = (settings / "signers").glob("*.json")
    return path


def test_what_is_pushed_is_signed_and_the_folder_is_not(publish, artifact, repo_id, hub, alice):
    publish(alice, author={"license": "mit"})
    assert not (artifact / "model.sig").exists()
    folder = pull(repo_id, hub=hub, trusted=alice[0].with_name("alice.pub"))
    assert {"model.sig", "ftplug_provenance.sig"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "ftplug.json").read_text())["author"]["license"] == "mit"


def test_upstream_verifies_what_was_published(publish, repo_id, hub, alice, tmp_path):
    publish(alice)
    folder = pull(repo_id, hub=hub, to=tmp_path / "copy")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "verify", "key", folder),
            *("--signature", folder / "model.sig", "--public_key", f"{alice[0]}.pub"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "Verification succeeded"), done.stderr


def test_a_signed_folder_is_published_as_it_is(signed, repo_id, hub, alice, pulled):
    for given in ({"author": {"notes": "more"}}, {"sign": Signer.of(alice[0])}):
        with pytest.raises(FtplugError, match="signed"):
            push(signed, repo_id, hub=hub, **given)
    push(signed, repo_id, hub=hub)
    assert pulled(**demand(trusted=f"{alice[0]}.pub")) == "trusted"
    fetched = pull(repo_id, hub=hub)
    for name in ("ftplug.json", "model.sig", "ftplug_provenance.sig"):
        assert (fetched / name).read_bytes() == (signed / name).read_bytes()


def test_a_signature_that_does_not_fit_is_not_published(signed, repo_id, hub):
    path = signed / "ftplug.json"
    path.write_text(path.read_text() + "\n")
    refuses(push, signed, repo_id, hub=hub, match=r"ftplug.json is not what was signed")


def test_the_first_signer_is_pinned_and_stays(publish, pulled, alice, settings, repo_id, hub):
    first = publish(alice)
    assert pulled() == "first use"
    content = json.loads(pin_file(settings).read_text())
    assert (content["key"], content["first"]) == (alice[1].fingerprint, first)
    assert pin_file(settings).stat().st_mode & 0o077 == 0
    publish(alice)
    assert pulled() == "pinned"
    assert pulled(first) == "pinned"
    assert pulled(**demand(required=True)) == "pinned"
    assert show(repo_id, hub=hub)["signature"]["known"] == "pinned"
    assert verify(repo_id, hub=hub, files_only=True).signature.known == "pinned"


def test_another_key_is_refused(publish, pulled, alice, mallory, repo_id, hub, settings):
    publish(alice)
    pulled()
    before = pin_file(settings).read_bytes()
    publish(mallory)
    for call in (pull, show, verify):
        refuses(call, repo_id, hub=hub, match=r"was signed by .* ftplug trust")
    # Who trusts mallory for everything has not said that this one changes hands.
    refuses(pulled, **demand(trusted=f"{mallory[0]}.pub"), match="was signed by")
    assert pin_file(settings).read_bytes() == before


def test_no_signature_is_refused_once_there_was_one(publish, pulled, alice, repo_id, hub, caplog):
    publish(alice)
    pulled()
    later = publish()
    assert "was signed, and no longer is" in caplog.text
    for call in (pull, show, verify):
        refuses(call, repo_id, hub=hub, match=r"without a signature, but .* was signed")
    refuses(pulled, later, **demand(allow_unsigned=True), match="without a signature")


def test_what_is_older_than_the_first_signed_one(publish, pulled, alice):
    old = publish()
    assert pulled() is None
    signed = publish(alice)
    assert pulled() == "first use"
    refuses(pulled, old, match="--allow-unsigned")
    assert pulled(old, **demand(allow_unsigned=True)) is None
    assert pulled(signed, **demand(allow_unsigned=True)) == "pinned"
    refuses(pulled, old, **demand(allow_unsigned=True, required=True), match="without a signature")


def test_a_signature_is_looked_for_where_the_cache_has_none(publish, pulled, alice, repo_id, hub):
    """The files of a signed revision lie in the cache, put there by others, without it."""
    publish(alice)
    folder = Path(pull(repo_id, hub=hub))
    (folder / "model.sig").unlink()
    assert pulled() == "pinned"
    assert (folder / "model.sig").is_file()


def test_a_key_is_followed_by_one_that_it_signed(publish, pulled, alice, typed, tmp_path, mallory):
    first = publish(alice)
    pulled()
    keys = [alice[0], *(tmp_path / name for name in ("second", "third"))]
    for old, new in itertools.pairwise(keys):
        assert typed("keygen", new, "--rotates", old)[0] == 0
    last = publish([keys[2]])  # whoever never saw the second goes from the first to the third
    assert pulled() == "pinned"
    assert pulled(last) == "pinned"
    assert pulled(first) == "pinned"  # by the key of then
    publish(alice)
    refuses(pulled, match="was signed by")  # the old key signs nothing new
    publish(mallory)
    refuses(pulled, match="was signed by")


def test_a_rotation_by_a_stranger_leads_nowhere(publish, pulled, alice, mallory, typed, tmp_path):
    publish(alice)
    pulled()
    assert typed("keygen", tmp_path / "evil", "--rotates", mallory[0])[0] == 0
    publish([tmp_path / "evil"])
    refuses(pulled, match="was signed by")
    path = tmp_path / "evil.rotation"
    said = json.loads(path.read_text())
    said[0]["verificationMaterial"]["publicKey"]["hint"] = alice[1].fingerprint
    path.write_text(json.dumps(said))
    publish([tmp_path / "evil"])
    refuses(pulled, match="not signed by the old one")


def test_trust_names_the_key(publish, pulled, alice, mallory, typed, repo_id):
    publish(alice)
    pulled()
    publish(mallory)
    refuses(pulled, match="was signed by")
    assert typed("trust", repo_id, f"{mallory[0]}.pub")[0] == 0
    assert mallory[1].fingerprint in typed("trust", repo_id)[1]
    assert pulled() == "pinned"
    publish(alice)
    refuses(pulled, match="was signed by")
    assert typed("trust", repo_id, "--forget")[0] == 0
    assert pulled() == "first use"
    assert typed("trust", repo_id, f"{mallory[0]}.pub", "--forget")[0] == 1
    assert typed("trust", "no-namespace")[0] == 1


def test_trust_before_the_first_pull(publish, pulled, alice, mallory, typed, repo_id):
    typed("trust", repo_id, f"{alice[0]}.pub")
    old = publish()
    refuses(pulled, match="without a signature")
    publish(mallory)
    refuses(pulled, match="was signed by")
    publish(alice)
    assert pulled() == "pinned"
    assert pulled(old, **demand(allow_unsigned=True)) is None


def test_a_line_that_names_the_repository_decides(publish, pulled, alice, mallory, settings):
    settings.mkdir()
    own = settings / "trusted_keys"
    signers.trusts(own, "ann", alice[1], 'repositories="alice/*"')
    publish()
    refuses(pulled, match=r"without a signature, which .*line 1 expects")
    publish(mallory)
    refuses(pulled, match=r"whom .*line 1 does not name for alice/")
    publish(alice)
    assert pulled() == "trusted"
    signers.trusts(own, "mal", mallory[1], 'repositories="alice/*"')
    publish(mallory)
    assert pulled() == "trusted"  # and the pin follows
    own.unlink()
    assert pulled() == "pinned"


def test_the_case_of_a_name_makes_no_other_repository():
    one, other = (Repository("http://hub", name, "0" * 40) for name in ("org/A", "Org/a"))
    assert one.path == other.path
    assert one.path != Repository("http://elsewhere", "org/A", "0" * 40).path


DAMAGED = ["", "{", "[]", '{"key": 3}', "\x00" * 10, "[" * 5000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_pin_is_one_line_and_never_no_pin(publish, pulled, alice, settings, content):
    publish(alice)
    pulled()
    pin_file(settings).write_text(content)
    refuses(pulled, match=r"damaged|cannot be read")
    pin_file(settings).write_text("x" * 100_000)
    refuses(pulled, match="too many for what it should be")


def test_a_pin_whose_key_is_not_what_it_says(publish, pulled, alice, mallory, settings):
    publish(alice)
    pulled()
    content = json.loads(pin_file(settings).read_text())
    pin_file(settings).write_text(json.dumps(content | {"pem": mallory[1].pem}))
    assert pulled() == "pinned"  # by the key that came along: the fingerprint is what counts
    pin_file(settings).write_text(json.dumps(content | {"key": mallory[1].fingerprint}))
    refuses(pulled, match="was signed by")


def test_settings_that_cannot_be_written_are_one_line(publish, pulled, alice, settings):
    publish(alice)
    settings.write_text("a file")
    refuses(pulled, match=r"cannot be (written|read)")


def test_two_processes_pin_one_key(tmp_path, settings):
    """Of many that see different signers first, one wins, and the others are told."""
    code = """
        import sys
        from ftplug_registry.signing.pins import Pin, Repository, pin
        from ftplug.errors import RegistryError
        repository = Repository("http://hub", "org/name", "0" * 40)
        new = Pin("http://hub", "org/name", sys.argv[1] * 64, None, "0" * 40)
        sys.stdin.readline()
        try:
            pin(repository, new, instead_of=None)
            print("pinned")
        except RegistryError as error:
            print("refused", error)
    """
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), digit],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for digit in "abcd"
    ]
    said = []
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        said.append(worker.communicate(timeout=120)[0])
    assert sorted(line.split()[0] for line in said) == ["pinned", *["refused"] * 3]
    assert all("another process has pinned" in line for line in said if "refused" in line)
    winner = "abcd"[[line.split()[0] for line in said].index("pinned")]
    found = pin_of(Repository("http://hub", "org/name", "0" * 40))
    assert found.key == winner * 64
    assert [path.name for path in (settings / "signers").iterdir()] == [pin_file(settings).name]


def test_a_pin_that_changed_meanwhile_is_not_overwritten(settings):
    repository = Repository("http://hub", "org/name", "0" * 40)
    first, second = (Pin("http://hub", "org/name", digit * 64, None, None) for digit in "ab")
    pin(repository, first, instead_of=None)
    pin(repository, first, instead_of=None)
    refuses(pin, repository, second, instead_of=None, match="another process has pinned")
    pin(repository, second, instead_of=first)
    assert pin_of(repository) == second


def test_load_and_run_ask_for_a_signature(publish, alice, mallory, base, repo_id, hub, tmp_path):
    """The same demands, through the host: of a repository and of a folder."""
    publish(alice)
    folder = pull(repo_id, hub=hub, to=tmp_path / "copy")
    assert ftplug.load(base, folder, trusted=f"{alice[0]}.pub") is not None
    with pytest.raises(RegistryError, match="does not name for a folder"):
        ftplug.load(base, folder, trusted=f"{mallory[0]}.pub")
    with pytest.raises(RegistryError, match="for which nobody vouches here"):
        ftplug.load(base, folder, require_signature=True)
    (folder / "model.sig").unlink()
    with pytest.raises(RegistryError, match="not signed"):
        ftplug.load(base, folder, require_signature=True)
    assert ftplug.load(base, folder) is not None
    from ftplug.artifacts.registries import signed_start

    assert signed_start("x", False, None) == "x"
    with pytest.raises(ArtifactError, match="go with the artifact --from"):
        signed_start(None, True, None)
    with pytest.raises(RegistryError, match="not signed"):
        signed_start(str(folder), True, None)


def test_run_from_takes_a_signed_artifact_alone(typed, signed, alice, mallory, tmp_path):
    script = tmp_path / "train.py"
    script.write_text("print('ran')")
    run = ("run", "--from", signed, "--trusted")
    code, _, said = typed(*run, f"{mallory[0]}.pub", "--", script)
    assert (code, "does not name for a folder" in said) == (1, True)
    code, _, said = typed("run", "--method", "lora", "--require-signature", "--", script)
    assert (code, "go with the artifact --from" in said) == (1, True)


def test_a_large_signature_is_not_downloaded(publish, hub, repo_id, alice, pulled):
    publish(alice)
    hub.api.upload_file(
        path_or_fileobj=b" " * (5 * 2**20), path_in_repo="model.sig", repo_id=repo_id
    )
    refuses(pulled, match="too many for a signature; nothing was downloaded")


def test_an_unsigned_picture_of_an_edited_card_stays_away(publish, hub, repo_id, alice, pulled):
    publish(alice)
    picture = b"\x89PNG\r\n\x1a\n"
    hub.api.upload_file(path_or_fileobj=picture, path_in_repo="p.png", repo_id=repo_id)
    hub.api.upload_file(
        path_or_fileobj=b"---\nlicense: mit\n---\n# edited\n![p](p.png)\n",
        path_in_repo="README.md",
        repo_id=repo_id,
    )
    fetched = snapshot(repo_id, hub=hub, **demand(trusted=f"{alice[0]}.pub"))
    assert "p.png" not in fetched.files
    assert "README.md" in fetched.files


def test_overwriting_a_signed_copy_leaves_no_signature(
    publish, hub, repo_id, alice, tmp_path, artifact
):
    publish(alice)
    copy = pull(repo_id, hub=hub, to=tmp_path / "copy")
    other = f"{repo_id}-other"
    annotate(artifact, notes="unsigned")
    push(artifact, other, hub=hub)
    pull(other, hub=hub, to=copy, overwrite=True)
    assert not (copy / "model.sig").exists()
    assert verify(copy, files_only=True).signature is None


def test_a_signed_plain_peft_repository(hub, repo_id, alice, artifact, pulled):
    """What model_signing signed, without our manifest: every file that is fetched is covered."""
    plain = artifact.parent / "plain"
    plain.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(artifact / name, plain)
    subprocess.run(
        [
            *(sys.executable, "-m", "model_signing", "sign", "key", plain),
            *("--signature", plain / "model.sig", "--private_key", alice[0]),
        ],
        check=True,
        capture_output=True,
    )
    hub.api.create_repo(repo_id)
    hub.api.upload_folder(repo_id=repo_id, folder_path=plain)
    assert pulled(**demand(trusted=f"{alice[0]}.pub")) == "trusted"
    content = (plain / "adapter_config.json").read_bytes() + b"\n"
    hub.api.upload_file(
        path_or_fileobj=content, path_in_repo="adapter_config.json", repo_id=repo_id
    )
    refuses(pulled, match=r"adapter_config.json is not what was signed")


def test_all_that_was_signed_is_fetched(publish, hub, repo_id, alice, artifact, tmp_path):
    """A picture that the card on the Hub no longer shows was signed with the rest."""
    from ftplug.artifacts.card import CURVE

    history = {"train": [{"step": step, "loss": 1 / (step + 1)} for step in range(8)]}
    annotate(artifact, training={"history": history})
    publish(alice)
    edited = b"---\nlicense: mit\n---\n# edited\n"
    hub.api.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id=repo_id)
    for _ in ("fetched", "cached"):
        fetched = snapshot(repo_id, hub=hub)
        assert CURVE in fetched.files
    copy = pull(repo_id, hub=hub, to=tmp_path / "copy")
    assert verify(copy, files_only=True, trusted=f"{alice[0]}.pub").signature.known == "trusted"
    assert b"edited" in (copy / "README.md").read_bytes()
