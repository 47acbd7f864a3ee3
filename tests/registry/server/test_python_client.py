"""huggingface_hub, unmodified, against the embedded Hub."""

import inspect
import os
import re
import socket
import threading
from pathlib import Path

import huggingface_hub
import pytest
from ftplug_registry.client import transport
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LARGE = bytes(range(256)) * 40  # over the LFS threshold of these tests


def upload(api, repo, path, content=b"content", **options):
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo, **options)


def read(api, repo, path, revision=None):
    return Path(api.hf_hub_download(repo, path, revision=revision)).read_bytes()


def status(error):
    return error.value.response.status_code


def test_whoami(api):
    who = api.whoami()
    assert who["name"] == "ann"
    assert [org["name"] for org in who["orgs"]] == ["lab"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_" + "x" * 34)


def test_a_repositorys_life(api):
    url = api.create_repo("ann/model")
    assert (url.repo_id, url.repo_type) == ("ann/model", "model")
    assert api.create_repo("ann/model", exist_ok=True) == url
    with pytest.raises(HfHubHTTPError) as error:
        api.create_repo("ann/model")
    assert status(error) == 409
    first = api.repo_info("ann/model")
    assert [file.rfilename for file in first.siblings] == [".gitattributes"]
    assert re.fullmatch(r"[0-9a-f]{40}", first.sha)
    assert not first.private
    with pytest.raises(HfHubHTTPError, match="no gates: a repository is public or private"):
        api.update_repo_settings("ann/model", private=True, gated="auto")
    assert not api.repo_info("ann/model").private
    api.update_repo_settings("ann/model", private=True, gated=False)
    changed = api.repo_info("ann/model")
    assert (changed.private, changed.gated) == (True, False)
    api.move_repo("ann/model", "lab/renamed")
    assert api.repo_info("lab/renamed").sha == first.sha
    assert not api.repo_exists("ann/model")
    api.delete_repo("lab/renamed")
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("lab/renamed")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("lab/renamed")
    api.delete_repo("lab/renamed", missing_ok=True)


def test_the_name_alone_means_ones_own_namespace(api):
    assert api.create_repo("model").repo_id == "ann/model"


def test_kinds_are_apart(api):
    api.create_repo("ann/same")
    api.create_repo("ann/same", repo_type="dataset")
    api.create_repo("ann/same", repo_type="space", space_sdk="static")
    api.upload_file(
        path_or_fileobj=LARGE, path_in_repo="a.csv", repo_id="ann/same", repo_type="dataset"
    )
    assert api.file_exists("ann/same", "a.csv", repo_type="dataset")
    assert not api.file_exists("ann/same", "a.csv")
    assert not api.file_exists("ann/same", "a.csv", repo_type="space")
    path = api.hf_hub_download("ann/same", "a.csv", repo_type="dataset")
    assert Path(path).read_bytes() == LARGE
    assert [dataset.id for dataset in api.list_datasets(author="ann")] == ["ann/same"]


@pytest.mark.parametrize("content", [b"", b"text\r\n", LARGE], ids=["empty", "text", "large"])
def test_a_file_comes_back_as_it_went(api, repo, content):
    info = upload(api, repo, "dir/a file+ü#1.bin", content, commit_message="Title\n\nBody")
    assert re.fullmatch(r"[0-9a-f]{40}", info.oid)
    assert read(api, repo, "dir/a file+ü#1.bin") == content
    assert read(api, repo, "dir/a file+ü#1.bin", info.oid) == content
    head = api.list_repo_commits(repo)[0]
    assert (head.commit_id, head.title, head.message) == (info.oid, "Title", "Body")
    assert head.authors == ["ann"]


def test_large_files_are_described_by_their_sha256(api, repo):
    import hashlib

    upload(api, repo, "large.bin", LARGE)
    upload(api, repo, "small.bin", b"small")
    by_name = {f.rfilename: f for f in api.model_info(repo, files_metadata=True).siblings}
    large, small = by_name["large.bin"], by_name["small.bin"]
    assert (large.size, large.lfs.sha256) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert small.lfs is None
    assert small.blob_id == huggingface_hub.utils.sha.git_hash(b"small")
    url = huggingface_hub.hf_hub_url(repo, "large.bin")
    metadata = huggingface_hub.get_hf_file_metadata(url)
    assert (metadata.etag, metadata.size) == (large.lfs.sha256, len(LARGE))


def test_the_stock_client_with_xet_needs_no_setting_for_what_goes_into_git(server, api, repo):
    huggingface_hub.constants.HF_HUB_DISABLE_XET = False  # the fixture undoes it
    upload(api, repo, "small.bin", b"x" * 4096)
    assert read(api, repo, "small.bin") == b"x" * 4096
    token = f"{server.endpoint}/api/models/{repo}/xet-write-token/main"
    response = huggingface_hub.utils.get_session().get(token)
    assert response.status_code == 404
    assert "HF_HUB_DISABLE_XET=1" in response.json()["error"]


def test_folders_and_what_is_there_already(api, repo, tmp_path):
    folder = tmp_path / "folder"
    for path in ("a.txt", "sub/b.txt", "sub/deep/c.bin", "skip.log"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode() if path != "sub/deep/c.bin" else LARGE)
    (folder / ".gitignore").write_text("*.log\n")
    first = api.upload_folder(repo_id=repo, folder_path=folder)
    files = {".gitattributes", ".gitignore", "a.txt", "sub/b.txt", "sub/deep/c.bin"}
    assert set(api.list_repo_files(repo)) == files
    (folder / "skip.log").unlink()  # older clients count an ignored file as a change
    again = api.upload_folder(repo_id=repo, folder_path=folder)
    assert again.oid == first.oid  # nothing changed: the client commits nothing
    local = Path(api.snapshot_download(repo))
    assert {str(p.relative_to(local)) for p in local.rglob("*") if p.is_file()} == files
    assert (local / "sub/deep/c.bin").read_bytes() == LARGE
    api.upload_folder(repo_id=repo, folder_path=folder / "sub", delete_patterns="*")
    assert set(api.list_repo_files(repo)) == {".gitattributes", "b.txt", "deep/c.bin"}


def test_trees_and_paths(api, repo):
    upload(api, repo, "a/b/c.txt")
    last = upload(api, repo, "a/d.bin", LARGE)
    assert [item.path for item in api.list_repo_tree(repo)] == [".gitattributes", "a"]
    assert [item.path for item in api.list_repo_tree(repo, "a")] == ["a/b", "a/d.bin"]
    everything = [".gitattributes", "a", "a/b", "a/b/c.txt", "a/d.bin"]
    tree = list(api.list_repo_tree(repo, recursive=True, expand=True))
    assert [item.path for item in tree] == everything
    assert {i.path: i.last_commit.oid for i in tree}["a/d.bin"] == last.oid
    assert {i.path: i.last_commit.oid for i in tree}["a"] == last.oid
    assert {i.path: i.last_commit.oid for i in tree}["a/b"] != last.oid
    found = api.get_paths_info(repo, ["a", "a/d.bin", "absent", "a/b/c.txt/d"])
    assert [item.path for item in found] == ["a", "a/d.bin"]
    assert found[1].lfs.size == len(LARGE)
    assert api.get_paths_info(repo, "a/b", expand=True)[0].last_commit.title
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "absent"))
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "a/d.bin"))


def test_long_lists_come_in_pages(api, repo):
    names = [f"many/{i:04}.txt" for i in range(1100)]
    operations = [CommitOperationAdd(name, b"same") for name in names]
    api.create_commit(repo, operations, commit_message="many")
    assert [item.path for item in api.list_repo_tree(repo, "many")] == names
    for i in range(2):
        upload(api, repo, "counter", str(i).encode())
    found = api.list_repo_commits(repo)
    assert [c.title for c in found][2:] == ["many", "initial commit"]


def test_history_comes_in_pages(api, repo, http):
    for i in range(5):
        upload(api, repo, "counter", str(i).encode())
    expected = [commit.commit_id for commit in api.list_repo_commits(repo)]
    client, url, found = http(), f"/api/models/{repo}/commits/main?limit=2", []
    while url:
        response = client.get(url)
        found += [commit["id"] for commit in response.json()]
        url = response.links.get("next", {}).get("url")
        upload(
            api, repo, "counter", f"meanwhile {len(found)}".encode()
        )  # pages stay where they were
    assert found == expected


def test_branches_and_tags(api, repo):
    start = api.repo_info(repo).sha
    api.create_branch(repo, branch="feat/one")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch="feat/one")
    assert status(error) == 409
    api.create_branch(repo, branch="feat/one", exist_ok=True)
    made = upload(api, repo, "new.txt", revision="feat/one")
    assert read(api, repo, "new.txt", "feat/one") == b"content"
    assert api.repo_info(repo, revision="feat/one").sha == made.oid
    assert api.repo_info(repo).sha == start
    assert list(api.list_repo_tree(repo, revision="feat/one"))[-1].path == "new.txt"
    api.create_tag(repo, tag="light/v1", revision="feat/one")
    api.create_tag(repo, tag="v1", tag_message="with a message", revision=made.oid[:8])
    api.create_branch(repo, branch="from-tag", revision="v1")
    for revision in ("v1", "light/v1", "from-tag", "refs/tags/v1", made.oid, made.oid[:10]):
        url = huggingface_hub.hf_hub_url(repo, "new.txt", revision=revision)
        assert huggingface_hub.get_hf_file_metadata(url).commit_hash == made.oid
    refs = api.list_repo_refs(repo, include_pull_requests=True)
    heads = {"feat/one": made.oid, "from-tag": made.oid, "main": start}
    assert {ref.name: ref.target_commit for ref in refs.branches} == heads
    assert {ref.name: ref.target_commit for ref in refs.tags} == {
        "v1": made.oid,
        "light/v1": made.oid,
    }
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(repo, tag="v1")
    assert status(error) == 409
    api.create_tag(repo, tag="v1", exist_ok=True)
    assert api.repo_info(repo, revision="v1").sha == made.oid
    api.delete_tag(repo, tag="light/v1")
    api.delete_branch(repo, branch="feat/one")
    for revision in ("feat/one", "light/v1", "0" * 40, "absent"):
        with pytest.raises(RevisionNotFoundError):
            api.repo_info(repo, revision=revision)
    with pytest.raises(RevisionNotFoundError):
        api.delete_branch(repo, branch="feat/one")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(repo, tag="absent")
    with pytest.raises(HfHubHTTPError) as error:
        api.delete_branch(repo, branch="main")
    assert status(error) == 403


@pytest.mark.parametrize(
    "name", ["a..b", "-x", "x.lock", "a b", "HEAD", "a" * 40, "x~1", "/x", "@{"]
)
def test_names_that_git_refuses(api, repo, name):
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch=name)
    assert status(error) == 400
    with pytest.raises(HfHubHTTPError) as error:
        api.create_tag(repo, tag=name, tag_message="message")
    assert status(error) == 400


def test_a_branch_cannot_hide_another(api, repo):
    api.create_branch(repo, branch="x")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_branch(repo, branch="x/y")
    assert status(error) == 409


def test_a_deleted_file_stays_readable_at_the_old_commit(api, repo):
    old = upload(api, repo, "gone.bin", LARGE)
    api.delete_file("gone.bin", repo)
    assert not api.file_exists(repo, "gone.bin")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download(repo, "gone.bin")
    assert read(api, repo, "gone.bin", old.oid) == LARGE


def test_copy_rename_and_delete(api, repo):
    upload(api, repo, "dir/large.bin", LARGE)
    upload(api, repo, "dir/small.txt", b"small")
    operations = [
        CommitOperationCopy("dir/large.bin", "copy/large.bin"),
        CommitOperationCopy("dir/small.txt", "copy/small.txt"),
        CommitOperationDelete("dir/"),
    ]
    api.create_commit(repo, operations, commit_message="move")
    assert set(api.list_repo_files(repo)) == {".gitattributes", "copy/large.bin", "copy/small.txt"}
    assert read(api, repo, "copy/large.bin") == LARGE
    api.delete_folder("copy", repo)
    assert api.list_repo_files(repo) == [".gitattributes"]


def test_a_stale_parent_is_refused(api, repo):
    first = api.repo_info(repo).sha
    second = upload(api, repo, "a.txt", parent_commit=first).oid
    with pytest.raises(HfHubHTTPError) as error:
        upload(api, repo, "b.txt", parent_commit=first)
    assert status(error) == 412
    upload(api, repo, "b.txt", parent_commit=second[:7])
    assert api.list_repo_commits(repo)[1].commit_id == second


def test_commits_need_a_branch(api, repo):
    with pytest.raises(RevisionNotFoundError):
        upload(api, repo, "a.txt", revision="absent")
    api.create_tag(repo, tag="v1")
    with pytest.raises(RevisionNotFoundError):
        upload(api, repo, "a.txt", revision="v1")


def test_pull_requests_and_discussions_are_not_there(api, repo):
    with pytest.raises(HfHubHTTPError, match="no pull requests") as error:
        upload(api, repo, "a.txt", create_pr=True)
    assert status(error) == 501
    with pytest.raises(HfHubHTTPError) as error:
        list(api.get_repo_discussions(repo))
    assert status(error) == 501
    with pytest.raises(HfHubHTTPError) as error:
        api.create_discussion(repo, title="title")
    assert status(error) == 501


def test_the_cache_is_used_while_the_etag_stays(api, repo):
    upload(api, repo, "a.bin", LARGE)
    first = Path(api.hf_hub_download(repo, "a.bin"))
    upload(api, repo, "b.txt")
    second = Path(api.hf_hub_download(repo, "a.bin"))
    assert first != second  # another commit's snapshot …
    assert os.path.realpath(first) == os.path.realpath(second)  # … of the same blob
    assert os.path.realpath(first).endswith(api.get_paths_info(repo, "a.bin")[0].lfs.sha256)


def test_a_broken_download_goes_on_where_it_stopped(server, api, repo, tmp_path, monkeypatch):
    content = os.urandom(200_000)
    upload(api, repo, "a.bin", content)
    upstream = int(server.endpoint.rpartition(":")[2])
    with CuttingProxy(upstream, after=60_000) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/{repo}/resolve/main/a.bin"
        monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 14)
        monkeypatch.setattr(
            "time.sleep", lambda seconds: None
        )  # the client waits before it retries
        http_get = huggingface_hub.file_download.http_get
        with (tmp_path / "a.bin").open("wb") as file:
            try:
                http_get(url, file, expected_size=len(content))
            except transport().RemoteProtocolError:  # before 1.31 it is the caller who asks again
                http_get(url, file, resume_size=file.tell(), expected_size=len(content))
    assert (tmp_path / "a.bin").read_bytes() == content
    assert len(proxy.requests) == 2
    assert b"range: bytes=" in proxy.requests[1].lower()


class CuttingProxy:
    """Pass requests on; cut the first answer after so many bytes."""

    def __init__(self, upstream, after):
        self.upstream, self.after, self.requests = upstream, after, []

    def __enter__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self.upstream)) as server:
                request = client.recv(1 << 16)
                own = f"Host: 127.0.0.1:{self.port}".lower().encode()
                close = f"Host: 127.0.0.1:{self.upstream}\r\nConnection: close".encode()
                server.sendall(re.sub(re.escape(own), close, request, flags=re.IGNORECASE))
                left = self.after if not self.requests else 1 << 30
                self.requests.append(request)
                while left > 0 and (data := server.recv(min(left, 1 << 16))):
                    client.sendall(data)
                    left -= len(data)


# Before 2.0 the client has cards validated at an address of its own, wherever else it works.
validates_here = "constants.ENDPOINT" in inspect.getsource(huggingface_hub.RepoCard.validate)


@pytest.mark.skipif(not validates_here, reason="this client has cards validated elsewhere")
def test_cards(api, repo):
    card = huggingface_hub.ModelCard("---\nlicense: mit\n---\n# Title\n")
    card.validate()
    card.push_to_hub(repo)
    assert huggingface_hub.ModelCard.load(repo, ignore_metadata_errors=False).data.license == "mit"
    bad = huggingface_hub.ModelCard("---\nmetrics: {a: 1}\n---\n")
    with pytest.raises(ValueError, match="metrics"):
        bad.validate()


def test_a_card_whose_metadata_are_invalid_is_refused(api, repo):
    upload(api, repo, "README.md", b"---\nlicense: mit\n---\n# Title\n")
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        upload(api, repo, "README.md", b"---\ntags: 1\n---\n")


def test_the_functions_of_huggingface_hub_go_to_the_same_place(api, repo):
    assert huggingface_hub.repo_exists(repo)
    assert huggingface_hub.whoami()["name"] == "ann"
