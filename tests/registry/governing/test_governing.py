"""History, diff, promote and du: what a repository's commits, refs and files say, by one client."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import hub as hubs
import pytest
from ftplug_registry import Hub, pull, push
from ftplug_registry.answers import names
from ftplug_registry.governing import promoting
from ftplug_registry.governing.changes import changes
from ftplug_registry.governing.deprecating import deprecate
from ftplug_registry.governing.differing import diff, named
from ftplug_registry.governing.history import history
from ftplug_registry.governing.promoting import promote
from ftplug_registry.governing.usage import usage
from ftplug_registry.governing.withdrawing import withdraw
from ftplug_registry.hub import check_ref
from transformers import BertForSequenceClassification

import ftplug
from ftplug import RegistryError
from ftplug.artifacts.manifest import read_manifest


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Two runs of one method that differ in rank and metrics, not to be changed."""
    folders = []
    for rank, accuracy in ((4, 0.75), (8, 0.875)):
        model = BertForSequenceClassification.from_pretrained(base)
        ftplug.apply(model, "lora", r=rank)
        elsewhere = {"data": {"dataset": "org/other"}, "metrics": {"f1": accuracy / 2}}
        training = {"metrics": {"eval_accuracy": accuracy}, "metrics_on_other_data": [elsewhere]}
        folders.append(
            ftplug.save(model, tmp_path_factory.mktemp("run") / f"r{rank}", training=training)
        )
    return folders


@pytest.fixture
def published(client, hub, runs, repo_id):
    """Two versions, v1 and v2, and a deprecation between them."""
    push(runs[0], repo_id, hub=hub, tag="v1")
    deprecate(repo_id, "old", hub=hub)
    push(runs[1], repo_id, hub=hub, tag="v2", message="A higher rank")
    return repo_id


def said(found):
    return {(c.section, c.name): (c.before, c.after) for c in found}


def test_history_tells_who_when_and_what_changed(client, hub, published, typed):
    withdraw(published, "v1", "bad", hub=hub)
    client.create_tag(published, tag="noted", tag_message="an annotated one", revision="v2")
    found = history(published, hub=hub).versions
    commits = client.list_repo_commits(published)
    assert [one.commit for one in found] == [commit.commit_id for commit in commits]
    withdrawn, second, deprecated, first, initial = found
    assert {one.who for one in found} == {("alice",)}
    assert [one.when for one in found] == [commit.created_at for commit in commits]
    assert (second.title, second.tags) == ("A higher rank", ("noted", "v2"))
    assert said(second.changes)["setting", "lora.r"] == (4, 8)
    assert said(second.changes)["metric", "eval_accuracy"] == (0.75, 0.875)
    assert said(second.changes)["metric", "f1 on org/other"] == (0.375, 0.4375)
    assert withdrawn.changes == deprecated.changes == initial.changes == ()
    assert (deprecated.title, deprecated.state, initial.state) == ("Deprecate", "artifact", "none")
    assert (first.notice.kind, second.notice.kind) == ("withdrawn", "deprecated")
    assert all(change.before is None for change in first.changes)
    code, out, err = typed("history", published, "--limit", 2)
    assert (code, err) == (0, "")
    assert "lora.r 4 -> 8; eval_accuracy 0.75 -> 0.875 (+0.125)" in out
    assert "older ones with --limit 4" in out
    content = json.loads(typed("history", published, "--revision", "v2", "--json")[1])
    assert [one["commit"] for one in content["versions"]] == [one.commit for one in found[1:]]
    assert content["more"] is False


def test_history_of_a_commit_whose_manifest_is_broken(client, hub, published):
    client.upload_file(path_or_fileobj=b"{", path_in_repo="ftplug.json", repo_id=published)
    broken, second, *_ = history(published, hub=hub).versions
    assert (broken.state, broken.changes) == ("unreadable", ())
    assert said(second.changes)["setting", "lora.r"] == (4, 8)


def test_history_follows_branches(client, hub, published):
    client.create_branch(published, branch="trial/x", revision="v1")
    client.upload_file(
        path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=published, revision="trial/x"
    )
    latest, first, *_ = history(published, "trial/x", hub=hub).versions
    assert (latest.tags, latest.changes, first.tags) == ((), (), ("v1",))
    with pytest.raises(RegistryError, match="no such branch, tag or commit"):
        history(published, "none", hub=hub)


def test_diff_is_the_same_from_folders_and_from_the_hub(client, hub, runs, published, typed):
    here = diff(str(runs[0]), str(runs[1]), hub=hub)
    there = diff(f"{published}@v1", f"{published}@v2", hub=hub)
    assert said(here.changes) == said(there.changes)
    assert said(here.changes)["setting", "lora.r"] == (4, 8)
    backwards = diff(f"{published}", f"{published}@v1", hub=hub)
    assert said(backwards.changes) == {key: pair[::-1] for key, pair in said(there.changes).items()}
    assert diff(published, f"{published}@v2", hub=hub).changes == ()
    code, out, err = typed("diff", runs[0], f"{published}@v2")
    assert (code, err) == (0, "")
    assert "setting\tlora.r\t4\t8" in out
    assert "metric\teval_accuracy\t0.75\t0.875 (+0.125)" in out
    assert "no difference" in typed("diff", runs[0], runs[0])[1]
    content = json.loads(typed("diff", f"{published}@v1", published, "--json")[1])
    assert {"section": "setting", "name": "lora.r", "before": 4, "after": 8} in content["changes"]
    for wrong in ("alice/none", f"{published}@none", "nowhere", ""):
        code, out, err = typed("diff", runs[0], wrong)
        assert (code, out, err.count("\n")) == (1, "", 1), wrong


def test_changes_are_none_only_between_equals(runs):
    one, other = (dataclasses.asdict(read_manifest(folder)) for folder in runs)
    assert changes(one, one) == []
    assert len(changes(one, other)) == len(changes(other, one)) > 3


def test_what_follows_an_at_is_a_revision_unless_it_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a@b").mkdir()
    assert named("a@b") == ("a@b", None)
    assert named("org/name@feat/x") == ("org/name", "feat/x")
    assert named("org/name") == ("org/name", None)


def tag_of(client, repo_id, name):
    return {ref.name: ref.target_commit for ref in client.list_repo_refs(repo_id).tags}.get(name)


def test_a_tag_moves_only_when_it_is_told_to(client, hub, published, typed):
    first, second = (client.model_info(published, revision=r).sha for r in ("v1", "v2"))
    code, out, _ = typed("promote", published, "--revision", "v1", "--as", "production")
    assert (code, out) == (0, f"{published}: production points to {first}; it is new\n")
    assert promote(published, first[:10], "production", hub=hub).changed is False
    code, out, err = typed("promote", published, "--revision", "v2", "--as", "production")
    assert (code, out) == (1, "")
    assert f"production points to {first[:12]}, not to {second[:12]}" in err
    assert "--move" in err
    assert tag_of(client, published, "production") == first
    move = ("promote", published, "--revision", "v2", "--as", "production", "--move")
    code, out, _ = typed(*move, "--json")
    assert json.loads(out)["before"] == first
    assert tag_of(client, published, "production") == second
    assert "unchanged" in typed(*move)[1]
    assert pull(published, "production", hub=hub).name == second


def test_an_annotated_tag_is_moved_from_the_commit_that_it_means(client, hub, published):
    first, second = (client.model_info(published, revision=r).sha for r in ("v1", "v2"))
    client.create_tag(published, tag="production", tag_message="words", revision="v1")
    assert promote(published, "v1", "production", hub=hub).changed is False
    assert promote(published, "v2", "production", move=True, hub=hub).before == first
    assert tag_of(client, published, "production") == second


@pytest.mark.parametrize(
    ("revision", "tag", "match"),
    [("none", "x", "no such branch, tag or commit"), ("v1", "main", "main is a branch"),
     ("v1", "refs/heads/main", "keeps refs/ to itself"), ("v1", "HEAD", "is no name for a tag"),
     ("v1", "a" * 40, "read as a commit"), ("v1", "a b", "is no name for a tag"),
     ("v1", "-x", "is no name for a tag"), ("v1", "../x", "is no name for a tag")],
)  # fmt: skip
def test_what_cannot_be_promoted(client, hub, published, revision, tag, match):
    before = client.list_repo_refs(published)
    with pytest.raises(RegistryError, match=match):
        promote(published, revision, tag, move=True, hub=hub)
    assert client.list_repo_refs(published) == before


def test_a_withdrawn_version_is_not_promoted_and_a_deprecated_one_with_a_warning(
    client, hub, published, caplog
):
    first = client.model_info(published, revision="v1").sha
    withdraw(published, "v1", "bad", hub=hub)
    with pytest.raises(RegistryError, match="was withdrawn: bad"):
        promote(published, first, "production", hub=hub)
    caplog.clear()
    promote(published, "v2", "production", hub=hub)
    assert "deprecated by its publisher: old" in caplog.text


def test_a_tag_that_cannot_be_made_comes_back(client, hub, published, monkeypatch):
    first, second = (client.model_info(published, revision=r).sha for r in ("v1", "v2"))
    promote(published, "v1", "production", hub=hub)
    create, fails = type(hub.api).create_tag, {second}

    def create_tag(api, repo_id, *, tag, revision):
        if revision in fails:
            raise ConnectionError("gone")
        create(api, repo_id, tag=tag, revision=revision)

    monkeypatch.setattr(type(hub.api), "create_tag", create_tag)
    with pytest.raises(RegistryError, match=f"production points to {first[:12]} as before"):
        promote(published, "v2", "production", move=True, hub=hub)
    assert tag_of(client, published, "production") == first
    fails.add(first)
    way_out = f"ftplug promote {published} --revision {first} --as production"
    with pytest.raises(RegistryError, match=way_out):
        promote(published, "v2", "production", move=True, hub=hub)
    assert tag_of(client, published, "production") is None


def test_two_who_move_a_tag_at_once(client, hub, published, monkeypatch):
    first = client.model_info(published, revision="v1").sha
    promote(published, "v1", "production", hub=hub)
    made = promoting._make

    def after_another(repository, tag, commit, before):
        client.create_tag(published, tag=tag, revision="main")
        made(repository, tag, commit, before)

    monkeypatch.setattr(promoting, "_make", after_another)
    with pytest.raises(RegistryError, match="somebody else set production meanwhile"):
        promote(published, "v2", "production", move=True, hub=hub)
    assert tag_of(client, published, "production") not in (None, first)


def test_without_the_right_to_write_it_is_one_line_and_nothing_changes(
    server, client, published, typed, tmp_path
):
    refs, head = client.list_repo_refs(published), client.model_info(published).sha
    commands = (
        ("deprecate", published, "--why", "x"), ("deprecate", published, "--undo"),
        ("withdraw", published, "--revision", "v1", "--why", "x"),
        ("promote", published, "--revision", "v1", "--as", "x"),
    )  # fmt: skip
    for account, cure in (("bob", "403"), (None, "401")):
        with hubs.client(server, account, home=tmp_path / str(account)):
            for command in commands:
                code, out, err = typed(*command)
                assert (code, out, err.count("\n")) == (1, "", 1), command
                assert cure in err, command
            assert typed("history", published)[0] == typed("du", published)[0] == 0
    assert (client.list_repo_refs(published), client.model_info(published).sha) == (refs, head)


def test_a_wrong_repository_no_network_and_wrong_usage(typed, client, hub, monkeypatch):
    absent = "alice/none"
    commands = (
        ("history", absent), ("promote", absent, "--revision", "v1", "--as", "x"),
        ("deprecate", absent, "--why", "x"), ("withdraw", absent, "--revision", "v1", "--why", "x"),
        ("du", absent),
    )  # fmt: skip
    for command in commands:
        code, out, err = typed(*command)
        assert (code, out, err.count("\n")) == (1, "", 1), command
        assert "no such repository" in err
    nowhere = Hub("http://127.0.0.1:9", token="x")
    for action in (
        lambda: history(absent, hub=nowhere),
        lambda: promote(absent, "v1", "x", hub=nowhere),
        lambda: deprecate(absent, "x", hub=nowhere),
        lambda: withdraw(absent, "v1", "x", hub=nowhere),
        lambda: usage(absent, hub=nowhere),
    ):
        with pytest.raises(RegistryError, match="cannot be reached"):
            action()
    for usage_error in (
        ("deprecate", absent), ("withdraw", absent, "--revision", "v1"), ("promote", absent),
        ("deprecate", absent, "--undo", "--why", "x"), ("history", absent, "--limit", 0),
        ("withdraw", absent, "--revision", "v1", "--undo", "--delete"),
    ):  # fmt: skip
        assert typed(*usage_error)[0] == 2, usage_error
    for name in ("history", "diff", "promote", "deprecate", "withdraw", "du"):
        code, out, _ = typed(name, "--help")
        assert code == 0
        assert f"Example: ftplug {name}" in out
        assert "--json" in out


def test_du_counts_what_is_there_once(client, hub, published, runs, tmp_path, typed):
    [on_hub] = usage(published, hub=hub)
    sizes = {}
    for revision in ("main", "v1", "v2"):
        info = client.model_info(published, revision=revision, files_metadata=True)
        sizes |= {file.blob_id: file.size for file in info.siblings}
    assert (on_hub.bytes, on_hub.versions) == (sum(sizes.values()), 2)
    assert published in {one.name for one in usage("alice", hub=hub)}
    assert usage("bob", hub=hub) == []
    zoo = tmp_path / "zoo"
    for number, folder in enumerate(runs):
        shutil.copytree(folder, zoo / "deep" / str(number))
    of_files = [path.stat().st_size for path in zoo.rglob("*") if path.is_file()]
    assert sum(one.bytes for one in usage(str(zoo))) == sum(of_files)
    assert [one.bytes for one in usage(str(zoo))] == sorted(
        (one.bytes for one in usage(str(zoo))), reverse=True
    )
    (zoo / "again").mkdir()
    for path in (zoo / "deep" / "0").iterdir():
        os.link(path, zoo / "again" / path.name)
    assert sum(one.bytes for one in usage(str(zoo))) == sum(of_files)
    code, out, _ = typed("du", zoo)
    assert code == 0
    assert out.splitlines()[-1] == f"3 artifacts, {sum(of_files):,} bytes"


def test_du_of_the_cache_has_artifacts_alone(client, hub, published, tmp_path, typed, monkeypatch):
    bound_at_its_import = "huggingface_hub.utils._cache_manager.HF_HUB_CACHE"
    monkeypatch.setattr(bound_at_its_import, str(tmp_path / "another"))
    cache = tmp_path / "home" / "hub"
    client.create_repo(f"{published}-plain")
    for name in (published, f"{published}-plain"):
        client.snapshot_download(name)
    blobs = [p.stat().st_size for p in cache.glob(f"*{published.split('/')[1]}/blobs/*")]
    content = json.loads(typed("du", "--json")[1])
    assert [one["name"] for one in content["artifacts"]] == [published]
    assert content["bytes"] == sum(blobs) > 0
    assert [one.name for one in usage(str(cache))] == [published]


def test_a_hostile_history_and_odd_refs_are_refused():
    good = {"id": "0" * 40}
    names.check_commits([good])
    for answer in ({}, [1], [good, {"id": "../../x"}], [{}]):
        with pytest.raises(names.OddAnswerError):
            names.check_commits(answer)
    tag = {"name": "v1", "targetCommit": "0" * 40}
    names.check_refs({"branches": [tag], "tags": [tag]})
    for tags in ([1], [{**tag, "name": "../x"}], [{**tag, "targetCommit": "../x"}], {"a": 1}):
        with pytest.raises(names.OddAnswerError):
            names.check_refs({"branches": [], "tags": tags})


@pytest.mark.parametrize(
    ("there", "tag"), [("v1", "v1/x"), ("eu/production", "eu"), ("v1", "v1/x/y")], ids=str
)
def test_a_tag_that_git_cannot_hold_beside_another(client, hub, published, runs, there, tag):
    if there != "v1":
        client.create_tag(published, tag=there, revision="v1")
    with pytest.raises(RegistryError, match=f"there is a tag {there}: git holds "):
        promote(published, "v1", tag, hub=hub)
    head = client.model_info(published).sha
    with pytest.raises(RegistryError, match=f"there is a tag {there}: git holds "):
        push(runs[0], published, hub=hub, tag=tag)
    assert client.model_info(published).sha == head
    assert promote(published, "v1", f"{there}-x", hub=hub).changed


@pytest.mark.parametrize("name", ["deadbee", "abcdef12", "ABCDEF12", "a" * 39, "1234567"])
def test_a_name_that_reads_as_a_commit_is_no_tag_and_no_branch(hub, name):
    for kind in ("tag", "branch"):
        with pytest.raises(RegistryError, match="7 to 40 hex digits read as a commit"):
            check_ref(kind, name)
    for other in ("deadbe", f"{name}g", f"v-{name}"):
        check_ref("tag", other)
