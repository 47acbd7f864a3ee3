"""Deprecations and withdrawals: only the card changes, pushes keep them, readers are told."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ftplug_registry import pull, push
from ftplug_registry.governing.deprecating import deprecate, undeprecate
from ftplug_registry.governing.promoting import promote
from ftplug_registry.governing.withdrawing import unwithdraw, withdraw
from ftplug_registry.signing.keys import generate
from ftplug_registry.signing.making import Signer
from huggingface_hub import CommitOperationAdd, ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import BertForSequenceClassification

import ftplug
from ftplug import RegistryError
from ftplug.artifacts.card import is_sealed
from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.notices.lines import with_notices, without_notices
from ftplug.artifacts.notices.reading import LONGEST, notice_beside, notices_of, plain_words

WHY = 'known to fail on Spanish: see issue 7 # really, "it" does ü 😀'
NOTICES = {"ftplug_deprecated": {"why": WHY, "use": "alice/other"}}
HOSTILE = "\x1b]0;title\x07\x1b[31mred\x1b[0m\nnext\r line\u202e\x9b2J \x00end " + "x" * 400


def on_hub(client, repo_id, name="README.md"):
    return Path(client.hf_hub_download(repo_id, name, force_download=True)).read_bytes()


def listing(client, repo_id):
    return {file.path: file.blob_id for file in client.list_repo_tree(repo_id, recursive=True)}


CARDS = [
    "", "no metadata\n", "---\nlicense: mit\n---\n", "---\nlicense: mit\n---",
    "---\nlicense: mit\n\n# a comment\ntags:\n- a\n---\n\n# Title\n---\nnot metadata\n",
    "---\r\nlicense: mit\r\n---\r\nwindows\r\n", "\ufeff---\nlicense: mit\n---\nmark\n", "\ufeffx",
    "\n\n---\nlicense: mit\n---\n", "---\nnever closed\n", "a\nb\n---\nlicense: mit\n---\n",
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS, ids=range(len(CARDS)))
def test_taking_a_notice_back_gives_the_card_to_the_byte(card):
    both = {**NOTICES, "ftplug_withdrawn": [{"tag": "v1", "commit": "0" * 40, "why": "a: b"}]}
    for notices in (NOTICES, both):
        said = with_notices(card, notices)
        assert notices_of(said) == notices
        assert without_notices(said) == with_notices(said, {}) == card
        assert with_notices(said, notices) == said
        assert (
            ModelCard(said.removeprefix("\ufeff")).data.get("ftplug_deprecated")
            == NOTICES["ftplug_deprecated"]
        )


def test_a_notice_that_an_editor_spread_over_lines_is_one_all_the_same():
    card = (
        "---\n'ftplug_deprecated':\n  why: >-\n    two\n    words\n  use: a/b\nlicense: mit\n---\n"
    )
    assert notices_of(card) == {"ftplug_deprecated": {"why": "two words", "use": "a/b"}}
    assert without_notices(card) == "---\nlicense: mit\n---\n"


@pytest.mark.parametrize(
    "value",
    ["{", "[1, 2]", "{why: [a]}", "!!python/object/apply:os.system [x]",
     "&a [*a, *a]", "[" * 5000, "9" * 5000, "{why: !!binary x}"],
)  # fmt: skip
def test_what_is_no_notice_is_none_or_has_no_words(value, artifact, caplog):
    (artifact / "README.md").write_text(f"---\nftplug_deprecated: {value}\n---\n")
    notice = notice_beside(artifact)
    assert notice is None or notice.why == "no reason is given"


def test_words_of_a_stranger_cannot_drive_a_terminal():
    words = plain_words(HOSTILE)
    assert words.startswith("red next line end xxx")
    assert len(words) == LONGEST
    assert words.isprintable()
    assert plain_words(None) == plain_words([7]) == plain_words("\n\x1b[2J") == ""


@pytest.fixture
def published(client, hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub, tag="v1")
    return repo_id


@pytest.fixture
def other(client):
    """A repository to use instead."""
    return client.create_repo("alice/better", exist_ok=True).repo_id


def test_only_the_card_changes_and_a_signature_stays_valid(
    client, hub, artifact, repo_id, tmp_path, caplog, typed
):
    key = tmp_path / "alice"
    generate(key, None, "P-256")
    push(artifact, repo_id, hub=hub, sign=Signer.of(str(key)))
    before, card = listing(client, repo_id), on_hub(client, repo_id)
    done = deprecate(repo_id, WHY, hub=hub)
    after = listing(client, repo_id)
    assert {n for n in {*before, *after} if before.get(n) != after.get(n)} == {"README.md"}
    assert notices_of(on_hub(client, repo_id).decode()) == {"ftplug_deprecated": {"why": WHY}}
    assert client.list_repo_commits(repo_id)[0].title == "Deprecate"
    caplog.clear()
    folder = pull(repo_id, hub=hub, to=tmp_path / "copy", require_signature=True)
    assert f"{repo_id}: deprecated by its publisher: {WHY}" in caplog.text
    caplog.clear()
    read_manifest(folder).verify_files(folder)
    code, out, err = typed("verify", repo_id, "--files-only", "--trusted", f"{key}.pub")
    assert code == 0, err
    assert "signature" in out
    assert deprecate(repo_id, WHY, hub=hub).commit is None
    assert undeprecate(repo_id, hub=hub).commit != done.commit
    assert on_hub(client, repo_id) == card
    assert undeprecate(repo_id, hub=hub).commit is None


def test_pull_and_load_tell_it_also_by_an_older_tag_and_from_a_folder(
    client, hub, base, published, other, tmp_path, caplog, typed
):
    model = BertForSequenceClassification.from_pretrained(base)
    pull(published, "v1", hub=hub)
    assert "deprecated" not in caplog.text
    deprecate(published, "old", use=other, hub=hub)
    pull(published, "v1", hub=hub)  # its own card says nothing
    assert f"{published}: deprecated by its publisher: old (use {other} instead)" in caplog.text
    commit = client.model_info(published, revision="v1").sha
    caplog.clear()
    pull(published, commit, hub=hub)  # pinned and in the cache: nobody is asked
    assert caplog.text == ""
    folder = pull(published, hub=hub, to=tmp_path / "copy")
    caplog.clear()
    ftplug.load(model, folder)
    assert caplog.text.count("deprecated by its publisher: old") == 1
    caplog.clear()
    model = BertForSequenceClassification.from_pretrained(base)
    ftplug.load(model, published)
    assert caplog.text.count("deprecated by its publisher: old") == 1
    content = json.loads(typed("pull", published, "--json")[1])
    assert content["notice"] == {"kind": "deprecated", "why": "old", "use": other}


def test_pushes_keep_it_and_renew_the_rest(client, hub, published, saved, tmp_path, caplog):
    deprecate(published, "old", hub=hub)
    other = shutil.copytree(saved / "bottleneck", tmp_path / "other")
    for overwrite in (False, True):
        caplog.clear()
        push(other, published, hub=hub, overwrite_card=overwrite)
        text = on_hub(client, published).decode()
        assert notices_of(text) == {"ftplug_deprecated": {"why": "old"}}
        assert "bottleneck" in text
        assert is_sealed(text)
        assert "stays on the card" in caplog.text
    client.upload_file(
        path_or_fileobj=text.replace("\n# ", "\nMine.\n\n# ", 1).encode(),
        path_in_repo="README.md", repo_id=published,
    )  # fmt: skip
    push(saved / "lora", published, hub=hub)
    text = on_hub(client, published).decode()
    assert "\nMine.\n" in text
    assert "lora" in text
    assert notices_of(text) == {"ftplug_deprecated": {"why": "old"}}


def test_a_pulled_folder_carries_it_nowhere_else(client, hub, published, repo_id, tmp_path):
    deprecate(published, "old", hub=hub)
    folder = pull(published, hub=hub, to=tmp_path / "copy")
    push(folder, "alice/fork-of-it", hub=hub)
    assert notices_of(on_hub(client, "alice/fork-of-it").decode()) == {}


def test_an_authors_own_card_stays_pushable(client, hub, published, artifact):
    (artifact / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n")
    push(artifact, published, hub=hub, overwrite_card=True)
    deprecate(published, "old", hub=hub)
    (artifact / "README.md").write_text("---\nlicense: mit\n---\n# Mine, later\n")
    push(artifact, published, hub=hub)
    text = on_hub(client, published).decode()
    assert text == "---\nlicense: mit\nftplug_deprecated: {why: old}\n---\n# Mine, later\n"


def test_writers_at_once_are_all_kept(client, hub, published):
    def edit(number):
        if number % 2:
            withdraw(published, f"t{number}", f"why {number}", hub=hub)
        else:
            deprecate(published, f"why {number}", hub=hub)

    for number in range(8):
        if number % 2:
            client.create_tag(published, tag=f"t{number}")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(edit, range(8)))
    said = notices_of(on_hub(client, published).decode())
    assert {one["tag"] for one in said["ftplug_withdrawn"]} == {"t1", "t3", "t5", "t7"}
    assert said["ftplug_deprecated"]["why"].startswith("why ")


def test_a_version_that_other_commits_hold_too_is_still_tagged(client, hub, published, typed):
    """A commit that changes the card alone makes no other version."""
    promote(published, "v1", "production", hub=hub)
    deprecate(published, "x", hub=hub)
    head = client.model_info(published).sha
    assert client.model_info(published, revision="v1").sha != head
    client.create_tag(published, tag="latest")
    code, out, _ = typed("withdraw", published, "--revision", "main", "--why", "bad", "--json")
    assert code == 0
    assert json.loads(out)["still_tagged"] == ["latest", "production", "v1"]
    assert (
        "tag production still points there"
        in typed("withdraw", published, "--revision", "v1", "--why", "bad")[1]
    )


def test_withdrawing_a_version_leaves_the_others_alone(
    client, hub, published, other, saved, tmp_path, caplog
):
    first = client.model_info(published, revision="v1").sha
    client.create_tag(published, tag="production", revision="v1")
    push(shutil.copytree(saved / "bottleneck", tmp_path / "b"), published, hub=hub, tag="v2")
    before = listing(client, published)
    done = withdraw(published, "v1", "trained on the test set", use=other, hub=hub)
    assert (done.commit, done.tag, done.still_tagged) == (first, "v1", ("production",))
    assert {ref.name for ref in client.list_repo_refs(published).tags} == {"production", "v2"}
    after = listing(client, published)
    assert {name for name in after if after[name] != before.get(name)} == {"README.md"}
    caplog.clear()
    pull(published, hub=hub)
    pull(published, "v2", hub=hub)
    assert "withdrawn" not in caplog.text
    pull(published, "production", hub=hub)
    assert "withdrawn by its publisher: trained on the test set (use alice/better" in caplog.text
    with pytest.raises(RegistryError, match="v1 was withdrawn by its publisher: trained on the"):
        pull(published, "v1", hub=hub)
    with pytest.raises(RegistryError, match="v1 was withdrawn before"):
        withdraw(published, "v1", "again", hub=hub)
    unwithdraw(published, "v1", hub=hub)
    assert client.model_info(published, revision="v1").sha == first
    assert notices_of(on_hub(client, published).decode()) == {}
    assert listing(client, published) == before


def test_deleting_takes_the_files_of_that_version_out_of_main_alone(
    client, hub, published, saved, tmp_path
):
    push(shutil.copytree(saved / "bottleneck", tmp_path / "b"), published, hub=hub, tag="v2")
    with pytest.raises(RegistryError, match="main holds another version"):
        withdraw(published, "v1", "bad", delete=True, hub=hub)
    assert {ref.name for ref in client.list_repo_refs(published).tags} == {"v1", "v2"}
    last = client.model_info(published).sha
    done = withdraw(published, "v2", "bad", delete=True, hub=hub)
    assert "ftplug.json" in done.deleted
    assert set(listing(client, published)) - {".gitattributes"} <= {
        "README.md",
        "training_curve.png",
    }
    assert pull(published, last, hub=hub).is_dir()  # history keeps it
    assert pull(published, "v1", hub=hub).is_dir()


def test_an_interrupted_withdrawal_is_finished_by_the_next(client, hub, published, monkeypatch):
    from ftplug_registry.governing import withdrawing

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(withdrawing, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            withdraw(published, "v1", "bad", hub=hub)
    assert withdraw(published, "v1", "bad", hub=hub).said is None
    assert client.list_repo_refs(published).tags == []


@pytest.mark.parametrize(
    ("why", "use", "match"),
    [("", None, "say --why"), ("\x1b[2J\n", None, "say --why"), ("x" * 301, None, "more than 300"),
     ("hf_" + "aB3" * 11 + "x", None, "--why holds"), ("old", "alice/gone", "no such repository"),
     ("old", "none", "is not a repository id")],
)  # fmt: skip
def test_reasons_that_are_none(hub, published, client, why, use, match):
    head = client.model_info(published).sha
    for say in (
        lambda: deprecate(published, why, use=use, hub=hub),
        lambda: withdraw(published, "v1", why, use=use, hub=hub),
    ):
        with pytest.raises(RegistryError, match=match) as error:
            say()
        assert str(error.value).count("\n") == 0
    with pytest.raises(RegistryError, match="is the repository itself"):
        deprecate(published, "old", use=published, hub=hub)
    assert client.model_info(published).sha == head


def test_a_card_that_cannot_be_fetched_is_not_taken_for_none(client, hub, published, monkeypatch):
    """Or the notice, or the next push, would take its place."""
    edited = on_hub(client, published).replace(b"\n# ", b"\nMine.\n\n# ", 1)
    client.upload_file(path_or_fileobj=edited, path_in_repo="README.md", repo_id=published)
    folder = pull(published, "v1", hub=hub)
    download = type(hub.api).hf_hub_download

    def unreachable(api, repo_id, filename, **more):
        if filename == "README.md":
            raise LocalEntryNotFoundError("a timeout, and nothing in the cache")
        return download(api, repo_id, filename, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(hub.api), "hf_hub_download", unreachable)
        for action in (
            lambda: deprecate(published, "old", hub=hub),
            lambda: push(folder, published, hub=hub),
        ):
            with pytest.raises(RegistryError, match="cannot be reached"):
                action()
    assert on_hub(client, published) == edited


def test_a_repository_without_a_card(client, hub, repo_id):
    client.create_repo(repo_id)
    before = listing(client, repo_id)
    deprecate(repo_id, "old", hub=hub)
    assert on_hub(client, repo_id) == b"---\nftplug_deprecated: {why: old}\n---\n"
    undeprecate(repo_id, hub=hub)
    assert listing(client, repo_id) == before


def test_a_hostile_card_is_told_harmlessly(client, hub, published, typed, caplog):
    text = on_hub(client, published).decode()
    said = with_notices(text, {"ftplug_deprecated": {"why": HOSTILE, "use": "../../x\n"}})
    client.create_commit(
        published, [CommitOperationAdd("README.md", said.encode())], commit_message="x"
    )
    assert typed("pull", published)[0] == 0
    line = next(m for m in caplog.messages if "deprecated" in m)
    assert line.isprintable()
    assert len(line) <= LONGEST + 100
    assert "instead" not in line
