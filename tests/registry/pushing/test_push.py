"""Publishing: one commit of exactly the artifact, refusals before it, nothing lost around it."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from ftplug_registry import Hub, pull, push
from ftplug_registry.bom.document import BOM, can_make_bom
from ftplug_registry.client import transport
from ftplug_registry.server.embedded import EmbeddedHub
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, get_token, hf_hub_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from safetensors.torch import save_file

from ftplug import ArtifactError, RegistryError
from ftplug.artifacts.manifest import read_manifest

SECRET = "hf_" + "CanaryTokenThatMustNeverShow" + "1234567"
BESIDE = {"ftplug.json", "README.md", *([BOM] if can_make_bom() else [])}


def remote(client, repo_id, revision=None):
    return set(client.list_repo_files(repo_id, revision=revision)) - {".gitattributes"}


def test_what_is_published_is_the_artifact_and_its_card(client, hub, artifact, repo_id):
    done = push(artifact, repo_id, hub=hub)
    listed = read_manifest(artifact).files
    assert remote(client, repo_id) == {*listed, *BESIDE} == set(done.files)
    assert done.changed
    assert done.url == f"{hub.endpoint}/{repo_id}"
    for name in listed:
        fetched = hf_hub_download(repo_id, name, revision=done.sha)
        assert Path(fetched).read_bytes() == (artifact / name).read_bytes()
    commits = client.list_repo_commits(repo_id)
    assert commits[0].title == "Publish lora"
    assert commits[0].commit_id == done.sha


def test_the_published_card_names_its_repository_and_the_folders_does_not(hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    card = ModelCard.load(repo_id)
    assert f'"{repo_id}")' in card.content
    assert repo_id not in (artifact / "README.md").read_text()


def test_the_announcement_comes_before_anything_is_sent(client, hub, artifact, repo_id):
    told = []

    def announce(sizes, url):
        with pytest.raises(RepositoryNotFoundError):
            client.model_info(repo_id)
        told.append((sizes, url))

    done = push(artifact, repo_id, hub=hub, announce=announce)
    assert told == [(dict(done.files), done.url)]


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_file_that_changes_after_it_was_verified_is_not_published(
    client, hub, artifact, repo_id, name
):
    def exchange(sizes, url):
        data = bytearray((artifact / name).read_bytes())
        data[-2] ^= 1
        (artifact / name).write_bytes(data)

    with pytest.raises(RegistryError, match=f"{name}: changed since it was verified"):
        push(artifact, repo_id, hub=hub, announce=exchange)
    assert not remote(client, repo_id)


def test_pushed_twice_is_one_commit(client, hub, artifact, repo_id):
    first = push(artifact, repo_id, hub=hub)
    second = push(artifact, repo_id, hub=hub)
    assert (second.changed, second.sha) == (False, first.sha)


def test_the_authors_words_go_into_card_and_manifest_and_stay(client, hub, artifact, repo_id):
    said = {"notes": "For short reviews. Not for irony.", "license": "mit"}
    push(artifact, repo_id, hub=hub, author=said)
    card = ModelCard.load(repo_id)
    assert "Not for irony." in card.content
    assert card.data.license == "mit"
    assert read_manifest(artifact).author == said
    assert not push(artifact, repo_id, hub=hub).changed


def test_an_edited_card_is_published_as_it_is_with_its_pictures(client, hub, artifact, repo_id):
    text = "---\nlicense: mit\n---\n# Mine\n![](plot.png) ![x](https://example.org/a.png)\n"
    (artifact / "README.md").write_text(text)
    (artifact / "plot.png").write_bytes(b"\x89PNG")
    push(artifact, repo_id, hub=hub)
    assert "plot.png" in remote(client, repo_id)
    assert Path(hf_hub_download(repo_id, "README.md")).read_text() == text
    with pytest.raises(ArtifactError, match="edited by hand"):
        push(artifact, repo_id, hub=hub, author={"notes": "more"})
    assert read_manifest(artifact).author == {}


def test_private_branch_and_tag(client, hub, artifact, repo_id):
    done = push(artifact, repo_id, hub=hub, private=True, revision="next/try", tag="v1.0")
    assert client.model_info(repo_id).private
    refs = client.list_repo_refs(repo_id)
    assert {ref.name: ref.target_commit for ref in refs.branches}["next/try"] == done.sha
    assert "ftplug.json" not in client.list_repo_files(repo_id)
    tagged = client.model_info(repo_id, revision="v1.0")
    assert "ftplug.json" in {file.rfilename for file in tagged.siblings}
    with pytest.raises(RegistryError, match=r"has a tag v1\.0 already"):
        push(artifact, repo_id, hub=hub, tag="v1.0")


def test_private_does_not_hide_what_is_public(hub, artifact, repo_id):
    push(artifact, repo_id, hub=hub)
    with pytest.raises(RegistryError, match="is public, and stays so"):
        push(artifact, repo_id, hub=hub, private=True)


def test_another_method_replaces_the_files_of_the_first_and_no_others(
    client, hub, saved, artifact, repo_id
):
    push(artifact, repo_id, hub=hub)
    client.upload_file(path_or_fileobj=b"mine", path_in_repo="LICENSE", repo_id=repo_id)
    done = push(saved / "bottleneck", repo_id, hub=hub)
    assert set(done.removed) == {"adapter_config.json", "adapter_model.safetensors"}
    listed = read_manifest(saved / "bottleneck").files
    assert remote(client, repo_id) == {*listed, *BESIDE, "LICENSE"}
    assert pull(repo_id, hub=hub)


REFUSED = {
    "a pickle": lambda f: (f / "optimizer.pt").write_bytes(b"\x80\x04K\x01."),
    "neither in the manifest": lambda f: (f / "diary.txt").write_text("private"),
    "a Hugging Face token": lambda f: edit(f, f"my token is {SECRET}"),
    "a private key": lambda f: edit(f, "-----BEGIN RSA PRIVATE KEY-----"),
    "an AWS access key": lambda f: edit(f, "AKIAIOSFODNN7EXAMPLE"),
    "a link out of the folder": lambda f: link(f),
    "sha256 differs": lambda f: flip(f / "adapter_model.safetensors"),
    "is missing": lambda f: (f / "adapter_model.safetensors").unlink(),
    "no ftplug.json": lambda f: (f / "ftplug.json").unlink(),
}


def edit(folder, text):
    """Put a card of the author's in the place of ours."""
    (folder / "README.md").write_text(f"---\nlicense: mit\n---\n# Mine\n\n{text}\n")


def link(folder):
    (folder / "README.md").unlink()
    (folder.parent / "diary").write_text("private")
    (folder / "README.md").symlink_to("../diary")


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def relist(folder, name):
    """Give a file a place in the manifest, under a hash that is right."""
    data = (folder / name).read_bytes()
    manifest = json.loads((folder / "ftplug.json").read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "ftplug.json").write_text(json.dumps(manifest))


def tokenizer_says(folder, text, **encoding):
    (folder / "tokenizer_config.json").write_text(text, **encoding)
    relist(folder, "tokenizer_config.json")


def metadata_says(folder, text):
    save_file({"x": torch.zeros(1)}, folder / "extra.safetensors", {"note": text})
    relist(folder, "extra.safetensors")


def listed(folder, name, content):
    (folder / name).write_bytes(content)
    relist(folder, name)


HIDDEN = {
    "escaped in JSON": lambda f: tokenizer_says(f, f'{{"x": "\\u0068{SECRET[1:]}"}}'),
    "UTF-16": lambda f: tokenizer_says(f, SECRET, encoding="utf-16"),
    "the header of tensors": lambda f: metadata_says(f, SECRET),
    "text called tensors": lambda f: listed(f, "x.safetensors", SECRET.encode()),
    "a password in an address": lambda f: edit(f, "https://me:hunter22@example.org"),
    "text called a picture": lambda f: (edit(f, "![](a.png)"), (f / "a.png").write_text(SECRET)),
    "a script": lambda f: (edit(f, "![](a.svg)"), (f / "a.svg").write_text("<script>")),
    "code": lambda f: listed(f, "run.py", b"x"),
    "a hidden file": lambda f: listed(f, ".env", b"PASSWORD=x"),
}


@pytest.mark.parametrize("where", HIDDEN)
def test_secrets_in_odd_places_are_never_published(where, client, hub, artifact, repo_id):
    HIDDEN[where](artifact)
    with pytest.raises((RegistryError, ArtifactError)) as refused:
        push(artifact, repo_id, hub=hub)
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
    with pytest.raises(RepositoryNotFoundError):
        client.model_info(repo_id)


def test_a_card_publishes_no_picture_of_a_hidden_folder(client, hub, artifact, repo_id):
    edit(artifact, "![](.ssh/a.png)")
    (artifact / ".ssh").mkdir()
    (artifact / ".ssh/a.png").write_bytes(b"\x89PNG")
    assert ".ssh/a.png" not in push(artifact, repo_id, hub=hub).files


def test_the_message_holds_no_secret_and_a_failed_push_changes_no_file(
    client, hub, artifact, repo_id
):
    with pytest.raises(RegistryError, match="the commit message holds"):
        push(artifact, repo_id, hub=hub, message=f"with {SECRET}")
    before = (artifact / "ftplug.json").read_bytes()
    with pytest.raises(RegistryError, match="403"):
        push(artifact, "bob/x", hub=hub, author={"notes": "mine"})
    assert (artifact / "ftplug.json").read_bytes() == before


def test_a_tag_is_no_branch_and_a_commit_without_its_tag_is_said(
    client, hub, artifact, repo_id, monkeypatch
):
    push(artifact, repo_id, hub=hub, revision="exp")
    for tag in ("exp", "main"):
        with pytest.raises(RegistryError, match="is a branch"):
            push(artifact, repo_id, hub=hub, tag=tag)
    for tag in ("HEAD", "a" * 40):
        with pytest.raises(RegistryError, match="is no name for a tag"):
            push(artifact, repo_id, hub=hub, tag=tag)

    def refuse(*args, **kwargs):
        raise OSError("gone")

    monkeypatch.setattr(HfApi, "create_tag", refuse)
    with pytest.raises(RegistryError, match=r"published at .*, but not tagged v1"):
        push(artifact, repo_id, hub=hub, tag="v1")


@pytest.mark.parametrize("reason", REFUSED)
def test_refused_before_anything_is_sent(reason, client, hub, artifact, repo_id):
    REFUSED[reason](artifact)
    with pytest.raises((RegistryError, ArtifactError), match=reason) as refused:
        push(artifact, repo_id, hub=hub)
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)
    with pytest.raises(RepositoryNotFoundError):
        client.model_info(repo_id)


def test_a_pickle_under_another_name_is_refused(client, hub, artifact, repo_id):
    torch.save({"x": 1}, artifact / "weights.dat")
    relist(artifact, "weights.dat")
    with pytest.raises(RegistryError, match=r"weights\.dat is a pickle"):
        push(artifact, repo_id, hub=hub)


def test_secrets_of_the_environment_and_the_own_token_are_found(
    client, hub, artifact, repo_id, monkeypatch
):
    monkeypatch.setenv("TRACKER_API_KEY", "correct-horse-battery")
    edit(artifact, "correct-horse-battery")
    with pytest.raises(RegistryError, match=r"README\.md holds the value of TRACKER_API_KEY"):
        push(artifact, repo_id, hub=hub)
    edit(artifact, get_token())
    with pytest.raises(RegistryError, match=r"README\.md holds (your Hub|a Hugging Face) token"):
        push(artifact, repo_id, hub=hub)


@pytest.mark.parametrize(
    "wrong",
    [
        {"repo_id": "no-namespace"},
        {"repo_id": "a/b/c"},
        {"repo_id": "../../etc"},
        {"repo_id": "alice/x", "revision": "../../x"},
        {"repo_id": "alice/x", "tag": "bad tag~^"},
        {"repo_id": "alice/x", "tag": ""},
        {"repo_id": "alice/x", "tag": "v1.lock"},
    ],
    ids=str,
)
def test_names_that_no_hub_takes_are_refused_before_anything_is_sent(wrong, artifact):
    with pytest.raises(RegistryError, match=r"is not a repository id|is no name for a"):
        push(artifact, **wrong)  # offline mode is on: a request would say so


def test_a_trainers_checkpoints_stay_behind(client, hub, artifact, repo_id):
    (artifact / "checkpoint-10").mkdir()
    (artifact / "checkpoint-10/optimizer.pt").write_bytes(b"\x80\x04K\x01.")
    push(artifact, repo_id, hub=hub)
    assert not [name for name in remote(client, repo_id) if "checkpoint" in name]


def test_a_stale_parent_is_read_again_and_nothing_is_overwritten(
    client, hub, saved, artifact, repo_id, monkeypatch
):
    push(artifact, repo_id, hub=hub)
    edit(artifact, "first")
    create, seen = HfApi.create_commit, []

    def overtaken(self, *args, **kwargs):
        seen.append(kwargs["parent_commit"])
        if len(seen) == 1:
            create(
                client,
                repo_id,
                [CommitOperationAdd("theirs.txt", b"theirs")],
                commit_message="Theirs",
            )
        return create(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    done = push(artifact, repo_id, hub=hub)
    titles = [commit.title for commit in client.list_repo_commits(repo_id)]
    assert titles[:3] == ["Publish lora", "Theirs", "Publish lora"]
    assert len(set(seen)) == len(seen) == 2
    assert "theirs.txt" in remote(client, repo_id, done.sha)


def test_an_interrupted_push_leaves_the_version_before_and_can_be_run_again(
    client, hub, saved, artifact, repo_id, monkeypatch
):
    before = push(artifact, repo_id, hub=hub).sha
    with monkeypatch.context() as patch:

        def send(self, request, **options):
            if "/commit/" in request.url.path:
                raise KeyboardInterrupt
            return sends(self, request, **options)

        sends = transport().Client.send
        patch.setattr(transport().Client, "send", send)
        with pytest.raises(KeyboardInterrupt):
            push(saved / "bottleneck", repo_id, hub=hub)
    assert client.model_info(repo_id).sha == before
    assert (pull(repo_id, hub=hub) / "adapter_model.safetensors").is_file()
    push(saved / "bottleneck", repo_id, hub=hub)
    assert (pull(repo_id, hub=hub) / "ftplug.safetensors").is_file()


@pytest.mark.slow
def test_eight_pushers_lose_nothing(client, hub, saved, repo_id, tmp_path):
    """Eight push ten versions each to one branch: all there, one line of history."""
    client.create_repo(repo_id)

    def pusher(number):
        folder = shutil.copytree(saved / "lora", tmp_path / f"pusher-{number}")
        shas = []
        for version in range(10):
            edit(folder, f"{number} {version}")
            shas.append(push(folder, repo_id, hub=hub, message=f"{number} {version}").sha)
        return shas

    with ThreadPoolExecutor(8) as pool:
        acknowledged = [sha for shas in pool.map(pusher, range(8)) for sha in shas]
    history = {commit.commit_id: commit.title for commit in client.list_repo_commits(repo_id)}
    assert len(set(acknowledged)) == 80
    assert {history[sha] for sha in acknowledged} == {
        f"{n} {v}" for n in range(8) for v in range(10)
    }
    assert len(history) == 81  # and the first commit of the repository
    for number in range(8):  # each pusher's versions are in the order of its pushing
        own = [title for title in history.values() if title.startswith(f"{number} ")]
        assert own == [f"{number} {version}" for version in reversed(range(10))]


@pytest.mark.parametrize("xet", [True, False])
def test_large_files_go_by_lfs_with_and_without_xet(xet, saved, tmp_path, capfd):
    """Of a server without Xet storage the client's Xet asks in vain: push falls back."""
    import hub as hubs

    with (
        EmbeddedHub(tmp_path / "hub", lfs_threshold=1000) as server,
        hubs.client(server, home=tmp_path / "home", xet=xet) as api,
    ):
        hub = Hub(server.endpoint, server.token("local"))
        enable_progress_bars()  # the other tests run without
        try:
            push(saved / "lora", "local/large", hub=hub)
        finally:
            disable_progress_bars()
        assert "adapter_model.safetensors: 100%" in capfd.readouterr().err  # its progress
        tree = {item.path: item for item in api.list_repo_tree("local/large")}
        weights = tree["adapter_model.safetensors"]
        assert weights.lfs.sha256 == read_manifest(saved / "lora").files[weights.path]["sha256"]
        assert pull("local/large", hub=hub)
