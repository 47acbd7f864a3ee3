"""Programs that are not ours, against the embedded Hub and its repositories."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import hub
import peers
import pytest

LARGE = bytes(range(251)) * 40  # over the LFS threshold of these tests

pytestmark = pytest.mark.slow


@pytest.fixture
def hf(server, tmp_path):
    """Run the hf command as ann; return what it printed."""

    def run(*arguments, account="ann", status=0):
        environment = hub.environment(server, account, home=tmp_path / "home")
        done = subprocess.run(
            [str(peers.HF), *map(str, arguments)],
            capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def test_the_hf_command(hf, server, tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "small.txt").write_text("small")
    (folder / "sub/large.bin").write_bytes(LARGE)
    assert "ann" in hf("auth", "whoami")
    assert "ann/cli" in hf("repos", "create", "ann/cli")
    hf("repos", "create", "ann/cli", "--exist-ok")
    assert f"{server.endpoint}/ann/cli" in hf(
        "upload", "ann/cli", folder, "--commit-message", "cli"
    )
    hf("repos", "branch", "create", "ann/cli", "feat/cli")
    hf("repos", "tag", "create", "ann/cli", "v1", "-m", "message")
    hf("upload", "ann/cli", folder / "small.txt", "again.txt", "--revision", "feat/cli")
    hf("download", "ann/cli", "--revision", "feat/cli", "--local-dir", tmp_path / "down")
    found = {p.name: p.read_bytes() for p in (tmp_path / "down").rglob("*") if p.is_file()}
    assert (found["again.txt"], found["small.txt"], found["large.bin"]) == (
        b"small",
        b"small",
        LARGE,
    )
    listed = json.loads(hf("models", "ls", "--author", "ann", "--format", "json"))
    assert [model["id"] for model in listed] == ["ann/cli"]
    hf("repos", "settings", "ann/cli", "--private")
    assert "not found" in hf("download", "ann/cli", account="bob", status=1).lower()
    hf("repos", "delete-files", "ann/cli", "small.txt")
    hf("repos", "move", "ann/cli", "lab/moved")
    asks = "--yes" in hf("repos", "delete", "--help")  # older clients delete without asking
    hf("repos", "delete", "lab/moved", *(["--yes"] if asks else []))
    assert server.token("ann") not in hf("auth", "whoami")


@peers.needs_npm
def test_the_npm_client(server, tmp_path):
    script = Path(__file__).with_name("npm_client.mjs")
    done = subprocess.run(
        ["node", str(script), str(peers.NPM), server.endpoint, server.token("ann")],
        capture_output=True, text=True, env=os.environ | hub.NO_PROXY, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    digest = hashlib.sha256(bytes(i % 251 for i in range(10_000))).hexdigest()
    info = found.pop("info")
    assert (info["size"], info["etag"]) == (10_000, f'"{digest}"')
    assert len(found.pop("commit")) == len(found.pop("model")) == 40
    assert found == {
        "whoami": "ann",
        "again": 409,
        "exists": [True, False],
        "stale": 412,
        "files": [
            ["file", ".gitattributes", 8],
            ["directory", "dir", 0],
            ["file", "dir/small.txt", 14],
            ["file", "large.bin", 10_000],
            ["file", "one", 1],
        ],
        "paths": [digest],
        "small": "hello from js\n",
        "one": "x",
        "large": 10_000,
        "absent": None,
        "branch": [True, False],
        "commits": [[found["commits"][0][0], "ann"], ["from js", "ann"], ["initial commit", "ann"]],
        "models": ["ann/from-js"],
        "gone": False,
    }


@peers.needs_olah
def test_olah_reads_the_same_from_the_repositories(server, api, repo, root, tmp_path):
    """An independent server: the same commits, trees, digests and bytes, large files included."""
    contents = {
        "README.md": b"---\nlicense: mit\n---\n# T\n",
        "a/b.txt": b"b",
        "a/large.bin": LARGE,
    }
    for path, content in contents.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo)
    api.create_branch(repo, branch="feat/x")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repo, revision="feat/x")
    api.create_tag(repo, tag="v1", tag_message="annotated")
    api.delete_file("a/b.txt", repo)
    ours = {revision: facts(api, repo, revision) for revision in ("main", "v1")}
    refs = api.list_repo_refs(repo)
    with peers.olah(root, tmp_path / "olah") as endpoint:
        other = SimpleNamespace(endpoint=endpoint)
        with hub.client(other, None, home=tmp_path / "other") as theirs:
            assert theirs.list_repo_refs(repo) == refs
            for revision, known in ours.items():
                assert facts(theirs, repo, revision) == known


def facts(api, repo, revision):
    """Return sha, history, tree and the digest of every file, all as the client gets them."""
    tree = [
        (item.path, getattr(item, "blob_id", None), getattr(item, "lfs", None))
        for item in api.list_repo_tree(repo, revision=revision, recursive=True)
    ]
    folder = Path(api.snapshot_download(repo, revision=revision))
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    etags = {str(p.relative_to(folder)): p.resolve().name for p in folder.rglob("*") if p.is_file()}
    return (
        api.repo_info(repo, revision=revision).sha,
        folder.name,
        sorted(tree, key=str),
        files,
        etags,
    )
