"""Where an adopted artifact comes to lie."""

import os

import pytest

from ftplug import ArtifactError
from ftplug.adopting.placing import refuse_inside, refuse_taken


def test_a_place_in_the_adapters_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for target in ("in", "in/to", "link/to", "other/../in/to"):
        with pytest.raises(ArtifactError, match="lies in the adapter's own folder"):
            refuse_inside(tmp_path / target, tmp_path / "in")
    refuse_inside(tmp_path / "inside", tmp_path / "in")


def test_what_is_taken_or_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "full", "dangling"):
        with pytest.raises(ArtifactError, match=f"{name} exists already"):
            refuse_taken(tmp_path / name)
    with pytest.raises(ArtifactError, match=r"cannot write .*choose another folder"):
        refuse_taken(tmp_path / "file" / "below")
    refuse_taken(tmp_path / "new" / "deep" / "to")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ArtifactError, match="not writable"):
        refuse_taken(tmp_path / "new")
