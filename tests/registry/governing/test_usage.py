"""What takes room where something is odd: counted as it is, or said, never left out in silence."""

import os
import sys

import pytest
import zoos
from ftplug_registry import Hub, pull, push, search
from ftplug_registry.adopting.fetching import fetched
from ftplug_registry.governing import usage as module
from ftplug_registry.governing.differing import diff
from ftplug_registry.governing.usage import usage
from ftplug_registry.governing.withdrawing import withdraw

from ftplug import RegistryError

ID = "0" * 40


@pytest.fixture
def cache(tmp_path):
    """A Hub's cache with one artifact of 1000 bytes, and an interrupted download of 500."""
    cache = tmp_path / "cache"
    blobs = cache / "models--org--x" / "blobs"
    snapshot = cache / "models--org--x" / "snapshots" / ID
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for name, size in (("a" * 40, 1000), ("b" * 64 + ".incomplete", 500)):
        (blobs / name).write_bytes(b"x" * size)
    (snapshot / "ftplug.json").symlink_to(f"../../blobs/{'a' * 40}")
    return cache


def test_interrupted_downloads_count(cache):
    [one] = usage(str(cache))
    assert (one.name, one.bytes, one.versions) == ("org/x", 1500, 1)


def test_a_snapshot_counts_what_its_links_lead_to(cache):
    snapshot = cache / "models--org--x" / "snapshots" / ID
    (snapshot / "again.json").symlink_to(snapshot / "ftplug.json")
    (snapshot / "gone.bin").symlink_to("/nowhere/at/all")
    [one] = usage(str(snapshot))
    assert one.bytes == 1000 + len("/nowhere/at/all")


def test_what_of_a_cache_cannot_be_read_is_said(cache, caplog):
    (cache / "models--org--x" / "snapshots" / ID / "gone.bin").symlink_to("../../blobs/none")
    assert usage(str(cache)) == []
    assert "du leaves out what it cannot read" in caplog.text
    assert "models--org--x" in caplog.text


def test_where_nothing_was_downloaded_nothing_is_left_out(cache, caplog):
    """The Hub was asked for what a repository has not: of that the client keeps notes."""
    for name, notes in (("a", ["refs/main"]), ("b", [f".no_exist/{ID}/ftplug.json"]), ("c", [])):
        (cache / f"models--org--{name}" / "snapshots").mkdir(parents=True)
        for note in notes:
            path = cache / f"models--org--{name}" / note
            path.parent.mkdir(parents=True)
            path.write_text("1" * 40)
    (cache / "models--org--b" / "snapshots").rmdir()
    [one] = usage(str(cache))
    assert one.name == "org/x"
    assert "leaves out" not in caplog.text


def test_what_is_refused_leaves_no_name_in_the_cache(client, hub, repo_id, saved, caplog):
    """A branch of a commit that is not there would make all of the repository unreadable."""
    push(saved / "lora", repo_id, hub=hub, tag="v1")
    pull(repo_id, "v1", hub=hub)
    withdraw(repo_id, "main", "bad", delete=True, hub=hub)
    for refused in (
        lambda: pull(repo_id, "main", hub=hub),
        lambda: diff(f"{repo_id}@v1", f"{repo_id}@main", hub=hub),
        lambda: fetched(repo_id, revision="main", hub=hub),
    ):
        with pytest.raises(RegistryError, match=r"has neither|has no ftplug\.json|no adapter"):
            refused()
        assert repo_id in [one.name for one in usage(hub=hub)]
    assert "leaves out" not in caplog.text


def test_a_repository_with_a_card_alone_holds_no_artifact(client, hub, repo_id, typed):
    client.create_repo(repo_id)
    card = b"---\ntags: [ftplug]\n---\n"  # so that it is found among its owner's
    client.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo_id)
    assert usage(repo_id, hub=hub) == []
    assert repo_id not in [one.name for one in usage(repo_id.partition("/")[0], hub=hub)]
    assert typed("du", repo_id)[1].endswith("\n0 artifacts, 0 bytes\n")


def test_a_cache_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match="found a file"):
        usage(hub=Hub(cache_dir=tmp_path / "file"))
    assert usage(hub=Hub(cache_dir=tmp_path / "none")) == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    folder = zoos.artifact(tmp_path / "zoo" / "x")
    (folder / "shut").mkdir()
    scan = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(RegistryError, match=r"x/shut: cannot be read: Permission denied"):
        usage(str(tmp_path / "zoo"))


def test_a_file_that_is_removed_meanwhile_is_left_out(tmp_path, monkeypatch):
    folder = zoos.artifact(tmp_path / "x")
    whole = usage(str(folder))[0].bytes
    stat = os.lstat

    def lstat(path, **options):
        raise FileNotFoundError(2, "No such file or directory", os.fspath(path))

    (folder / "link").symlink_to("/nowhere")
    monkeypatch.setattr(module.os, "lstat", lstat)
    monkeypatch.setattr(module.os.path, "lexists", lambda path: False)
    assert usage(str(folder))[0].bytes == whole
    monkeypatch.setattr(module.os, "lstat", stat)


def test_a_place_that_is_nowhere(typed, hub):
    for place in ("./none", "/none/at/all", "~/none"):
        with pytest.raises(RegistryError, match="no such folder"):
            usage(place)
    for place in ("", " "):  # an unset variable: the Hub would list everybody's
        with pytest.raises(RegistryError, match="the place is empty"):
            usage(place, hub=hub)
    code, out, err = typed("du", "nobody")
    assert (code, out.splitlines()[-1]) == (0, "0 artifacts, 0 bytes")
    assert "nobody: no folder here, nothing by ftplug at" in err


def test_one_artifact_is_one(typed, tmp_path):
    zoos.artifact(tmp_path / "x")
    assert typed("du", tmp_path / "x")[1].splitlines()[-1].startswith("1 artifact, ")


def test_pages_beyond_all_bounds_are_refused(hub):
    with pytest.raises(RegistryError, match="too large: begin with page 1"):
        search(page=10**30, hub=hub)
    assert search(page=sys.maxsize // 40, hub=hub).results == ()
