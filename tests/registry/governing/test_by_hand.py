"""Cards that people edit by hand, and revisions as they name them: nothing is lost or misread."""

import dataclasses
import json
from pathlib import Path

import pytest
import zoos
from ftplug_registry import push, show
from ftplug_registry.governing.changes import Change
from ftplug_registry.governing.deprecating import deprecate, undeprecate
from ftplug_registry.governing.differing import diff
from ftplug_registry.governing.history import history
from ftplug_registry.governing.promoting import promote
from ftplug_registry.governing.withdrawing import unwithdraw, withdraw
from huggingface_hub import CommitOperationAdd

from ftplug import RegistryError
from ftplug.artifacts.notices.lines import with_notices
from ftplug.artifacts.notices.reading import notice_in, notices_of, unreadable

CARD = "---\nlicense: mit\n---\n# x\n"


def zoo_artifact(client, repo_id, folder, card=CARD, **facts):
    """Publish an artifact that no model stands behind; return its folder."""
    client.create_repo(repo_id, exist_ok=True)
    source = zoos.artifact(folder, zoos.manifest(**facts), card)
    client.upload_folder(repo_id=repo_id, folder_path=source)
    return source


def card_on(client, repo_id):
    return Path(client.hf_hub_download(repo_id, "README.md")).read_bytes()


def edited_by_git(client, server, repo_id, card):
    """Commit a card as git would, which asks nobody whether it is sound."""
    import pygit2

    root = server.token_path("alice").parents[1]
    git = pygit2.Repository(str(root / "models" / repo_id / ".git"))
    head = git[git.references["refs/heads/main"].target]
    tree = git.TreeBuilder(head.tree)
    tree.insert("README.md", git.create_blob(card), 0o100644)
    who = pygit2.Signature("alice", "alice@example.org")
    git.create_commit("refs/heads/main", who, who, "edit", tree.write(), [head.id])


@pytest.mark.parametrize(
    ("value", "why"),
    [("fails on Spanish", "fails on Spanish"), ("true", "no reason is given"),
     ("{why: 2024-01-01}", "2024-01-01"), ("{why: 404}", "404"), ("{why: 0.5}", "0.5"),
     ("{why: true}", "no reason is given"), ("[old]", "no reason is given"),
     ("false", None), ("", None), ("{}", None), ("{why: 0x" + "f" * 5000 + "}",
     "no reason is given")],
)  # fmt: skip
def test_a_deprecation_by_hand_counts(value, why):
    said = notice_in(notices_of(f"---\nftplug_deprecated: {value}\n---\n"))
    assert (said and said.why) == why


def test_a_withdrawal_by_hand_that_is_no_list_counts_and_stays(client, hub, repo_id, tmp_path):
    entry = {"commit": "0" * 40, "tag": "v0", "why": "bad"}
    card = f"---\nftplug_withdrawn: {json.dumps(entry)}\n---\n# x\n"
    assert notice_in(notices_of(card), commit="0" * 40).why == "bad"
    zoo_artifact(client, repo_id, tmp_path / "a", card)
    done = withdraw(repo_id, "main", "worse", hub=hub)
    kept, new = notices_of(card_on(client, repo_id).decode())["ftplug_withdrawn"]
    assert (kept, new["commit"]) == (entry, done.commit)


BROKEN = b"---\nlicense: mit\nftplug_withdrawn: [{tag: v1, why: bad}\n---\n# x\n"


def test_what_cannot_be_read_is_not_written_over(client, server, hub, artifact, repo_id, tmp_path):
    push(artifact, repo_id, hub=hub, tag="v1")
    edited_by_git(client, server, repo_id, BROKEN)
    for action in (
        lambda: deprecate(repo_id, "gone", hub=hub),
        lambda: withdraw(repo_id, "v1", "gone", hub=hub),
        lambda: push(artifact, repo_id, hub=hub, overwrite_card=True),
        lambda: push(artifact, repo_id, hub=hub),
    ):
        with pytest.raises(RegistryError, match=r"ftplug_withdrawn .*cannot be read: mend it"):
            action()
    assert card_on(client, repo_id) == BROKEN


def test_more_withdrawals_than_can_be_read_back_are_refused(client, hub, repo_id, tmp_path):
    many = [{"tag": f"t{at}", "commit": f"{at:040x}", "why": "w" * 300} for at in range(176)]
    card = with_notices(CARD, {"ftplug_withdrawn": many})
    assert unreadable(card) == []
    zoo_artifact(client, repo_id, tmp_path / "a", card)
    with pytest.raises(RegistryError, match="take those of old versions back"):
        withdraw(repo_id, "main", "w" * 300, hub=hub)
    assert card_on(client, repo_id) == card.encode()
    assert unreadable(with_notices(card, {"ftplug_withdrawn": many * 2})) == ["ftplug_withdrawn"]


def test_a_card_in_another_encoding_is_named(client, server, hub, repo_id, tmp_path):
    zoo_artifact(client, repo_id, tmp_path / "a")
    edited_by_git(client, server, repo_id, "# café\n".encode("latin-1"))
    with pytest.raises(RegistryError, match=r"README.md on main is no UTF-8.*save it as UTF-8"):
        deprecate(repo_id, "gone", hub=hub)
    assert undeprecate(repo_id, hub=hub).commit is None


def test_taking_back_is_silent_where_the_card_has_no_metadata(
    client, server, hub, repo_id, tmp_path, recwarn
):
    zoo_artifact(client, repo_id, tmp_path / "a")
    edited_by_git(client, server, repo_id, b"# x\n")
    deprecate(repo_id, "gone", hub=hub)
    undeprecate(repo_id, hub=hub)
    assert card_on(client, repo_id) == b"# x\n"
    assert [str(one.message) for one in recwarn if "metadata" in str(one.message)] == []


def test_a_withdrawal_is_taken_back_by_the_name_it_was_made_by(client, hub, repo_id, tmp_path):
    zoo_artifact(client, repo_id, tmp_path / "a")
    card = card_on(client, repo_id)
    for made, undone in (("main", "main"), ("refs/heads/main", "main"), ("main", "HEAD")):
        withdraw(repo_id, made, "bad", hub=hub)
        unwithdraw(repo_id, undone, hub=hub)
        assert card_on(client, repo_id) == card, (made, undone)
    client.create_tag(repo_id, tag="v1")
    assert withdraw(repo_id, "refs/tags/v1", "bad", hub=hub).tag == "v1"
    with pytest.raises(RegistryError, match="v2 was not withdrawn"):
        unwithdraw(repo_id, "v2", hub=hub)
    assert unwithdraw(repo_id, "main", hub=hub).tag == "v1"
    assert card_on(client, repo_id) == card


def test_words_are_taken_back_of_a_commit_that_is_gone(client, hub, repo_id, tmp_path, caplog):
    entry = {"commit": "1" * 40, "tag": "v0", "why": "bad"}
    zoo_artifact(client, repo_id, tmp_path / "a", with_notices(CARD, {"ftplug_withdrawn": [entry]}))
    assert unwithdraw(repo_id, "v0", hub=hub).tag is None
    assert "the commit of v0 is gone" in caplog.text
    assert card_on(client, repo_id) == CARD.encode()


def test_a_commit_without_an_artifact_is_neither_promoted_nor_withdrawn(client, hub, repo_id):
    client.create_repo(repo_id)
    for action in (promote, withdraw):
        with pytest.raises(RegistryError, match=r"main holds no artifact \(no ftplug.json\)"):
            action(repo_id, "main", "words", hub=hub)
    assert client.list_repo_refs(repo_id).tags == []
    plain = [CommitOperationAdd("adapter_config.json", b"{}")]
    client.create_commit(repo_id, plain, commit_message="plain peft")
    assert promote(repo_id, "main", "production", hub=hub).changed


def test_an_empty_revision_is_no_other(client, hub, repo_id, tmp_path):
    zoo_artifact(client, repo_id, tmp_path / "a")
    for action in (
        lambda: promote(repo_id, "", "production", hub=hub),
        lambda: withdraw(repo_id, " ", "bad", hub=hub),
        lambda: history(repo_id, "", hub=hub),
        lambda: show(repo_id, "", hub=hub),
    ):
        with pytest.raises(RegistryError, match="the revision is empty"):
            action()
    with pytest.raises(RegistryError, match="missing after the @"):
        diff(f"{repo_id}@", repo_id, hub=hub)
    with pytest.raises(RegistryError, match=f"^diff {repo_id}@none: no such branch, tag or commit"):
        diff(repo_id, f"{repo_id}@none", hub=hub)


def test_a_private_repository_is_not_named_to_readers_of_a_public_one(
    client, hub, repo_id, tmp_path
):
    zoo_artifact(client, repo_id, tmp_path / "a")
    client.create_repo(f"{repo_id}-secret", private=True)
    with pytest.raises(RegistryError, match=r"is private, and .* is not"):
        deprecate(repo_id, "old", use=f"{repo_id}-secret", hub=hub)
    client.update_repo_settings(repo_id, private=True)
    assert deprecate(repo_id, "old", use=f"{repo_id}-secret", hub=hub).use


def test_only_the_first_version_is_the_first(client, hub, repo_id, tmp_path, typed):
    source = zoo_artifact(client, repo_id, tmp_path / "a")
    facts = zoos.manifest(
        training={"metrics": {"eval_accuracy": 0.9, "eval_loss": 0.1, "eval_f1": 0.5}}
    )
    (source / "ftplug.json").write_text(json.dumps(facts))
    client.upload_folder(repo_id=repo_id, folder_path=source)
    client.upload_file(path_or_fileobj=b"{", path_in_repo="ftplug.json", repo_id=repo_id)
    versions = history(repo_id, hub=hub).versions
    assert [one.is_first for one in versions] == [False, False, True, False]
    assert [one.is_first for one in history(repo_id, limit=2, hub=hub).versions] == [False, False]
    broken, added, first, _ = typed("history", repo_id)[1].splitlines()[1:]
    assert broken.endswith("its manifest cannot be read")
    assert added.endswith("eval_f1 none -> 0.5")
    assert first.endswith("first version")


def test_a_number_of_hundreds_of_digits_has_no_difference():
    huge = Change("metric", "eval_loss", 10**400, 0.5)
    assert (
        huge.difference() == dataclasses.replace(huge, before=0.5, after=10**400).difference() == ""
    )
    assert dataclasses.replace(huge, before=0.25).difference() == " (+0.25)"
