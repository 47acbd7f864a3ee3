"""A folder of which one writer alone may make something: it is there already, or is meanwhile."""

import threading

import pytest

from ftplug import ArtifactError
from ftplug.files.staged import require_empty, staged
from ftplug.files.write_errors import stated_write_errors


def write(target, content, *, after=lambda: None):
    with stated_write_errors(target), staged(target, "last", exist_ok=False) as stage:
        (stage / "last").write_text(content)
        after()


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_an_empty_folder_is_held_while_it_is_filled(tmp_path):
    said = []

    def other():
        with pytest.raises(ArtifactError) as refused:
            write(tmp_path, "second")
        said.append(str(refused.value))

    thread = threading.Thread(target=other)
    write(tmp_path, "first", after=thread.start)
    thread.join()
    assert "exists already: choose another folder" in said[0]
    assert (tmp_path / "last").read_text() == "first"
    assert names(tmp_path) == ["last"]


def test_what_another_one_made_meanwhile_stays(tmp_path):
    target = tmp_path / "to"
    with pytest.raises(ArtifactError, match="another process made it meanwhile"):
        write(target, "first", after=lambda: write(target, "second"))
    assert (target / "last").read_text() == "second"
    assert names(tmp_path) == ["to"]


def test_what_is_there_is_refused_and_stays(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "dangling"):
        with pytest.raises(ArtifactError, match=f"{name} exists already"):
            write(tmp_path / name, "second")
    assert (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path / "full") == ["mine"]
    assert not (tmp_path / "nowhere").exists()


def test_what_a_killed_process_left_does_not_count(tmp_path):
    with staged(tmp_path, "last") as stage:
        kept = stage.name
    machine = kept.rpartition("-")[0]
    (tmp_path / f"{machine}-{2**22 + 1}").mkdir()  # beyond the largest number of a process
    (tmp_path / f"{machine}-{2**22 + 1}" / "half").touch()
    require_empty(tmp_path)
    assert names(tmp_path) == []
