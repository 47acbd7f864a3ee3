"""Output folders that cannot be, and containers in which nothing can be written: one line each."""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import script
import tiny
import torch
from ftplug_plugins.lora import Lora
from ftplug_registry.pulling import copying
from ftplug_registry.pulling.copying import copy_to_folder, require_free
from runs import rows, shake, trainer

import ftplug
from ftplug import Method, cli, hookimpl
from ftplug.artifacts import view
from ftplug.artifacts.manifest import read_manifest
from ftplug.artifacts.merged_model import merge_artifact
from ftplug.testing.compare import logits
from ftplug.training.script import Launch

KINDS = {"full": {}, "lora": {"r": 4}, "freeze": {"layers": 2}}  # the whole, an adapter, the head
OUT = {
    "a file": "file",
    "below a file": "file/x/out",
    "no folder at all": "/dev/null/x",
    "too long": "a" * 300,
    "below a name too long": "a" * 300 + "/out",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with a base, an artifact of each kind, and a script that trains."""
    root = tmp_path_factory.mktemp("made")
    tiny.bert().save_pretrained(root / "base")
    for method, settings in KINDS.items():
        ftplug.save(shake(ftplug.apply(tiny.bert(), method, **settings)), root / method)
    return root


@pytest.fixture(params=OUT)
def no_place(request, tmp_path):
    (tmp_path / "file").write_text("mine")
    return tmp_path / OUT[request.param]


def command(monkeypatch, *arguments):
    """Run the command line in this process; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["ftplug", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def bound(out, **options):
    model = tiny.bert()
    made = trainer(model, out, max_steps=2, **options)
    made.train_dataset = rows(model)
    return ftplug.attach(made, "lora", r=4)


def copied(artifact, target):
    require_free(target)
    files = read_manifest(artifact).files
    copy_to_folder(artifact, files, read_manifest(artifact), target, overwrite=False)


def test_two_that_are_pulled_to_one_place_are_not_mixed(made, tmp_path, monkeypatch):
    stage = copying.staged

    def meanwhile(target, *given, **named):
        monkeypatch.undo()
        copied(made / "freeze", target)
        return stage(target, *given, **named)

    monkeypatch.setattr(copying, "staged", meanwhile)
    with pytest.raises(ftplug.ArtifactError, match="exists already"):
        copied(made / "lora", tmp_path / "to")
    there = {path.name for path in (tmp_path / "to").iterdir()}
    assert there == set(read_manifest(made / "freeze").files)


WRITES = {
    "save": lambda made, out: ftplug.save(ftplug.apply(tiny.bert(), "lora", r=4), out),
    "run": lambda made, out: Launch([Lora()]).run([script.__file__, "--out", str(out)]),
    "merge": lambda made, out: merge_artifact(made / "lora", out, base=made / "base"),
    "pull --to": lambda made, out: copied(made / "lora", out),
    "save_model": lambda made, out: bound(made / "trained").save_model(str(out)),
}


@pytest.mark.parametrize("way", WRITES)
def test_an_output_folder_that_cannot_be_is_one_line(way, made, no_place):
    with pytest.raises(ftplug.FtplugError, match=r"choose another|there is a file") as said:
        WRITES[way](made, no_place)
    assert no_place.name[:40] in str(said.value)
    assert "what was complete" not in str(said.value)  # nothing was


def test_nor_does_reading_one_raise_anything_else(made, no_place, monkeypatch, capsys):
    for act in ("finish", "verify"):
        assert command(monkeypatch, act, no_place) == 1
        assert capsys.readouterr().err.startswith("ftplug: ")
    with pytest.raises(ftplug.ArtifactError, match="no such folder"):
        ftplug.load(tiny.bert(), no_place)
    with pytest.raises(ftplug.ArtifactError, match="no earlier one is complete"):
        bound(made / "trained").train(resume_from_checkpoint=str(no_place))


def test_a_name_that_no_folder_can_have_is_one_line(tmp_path):
    with pytest.raises(ftplug.ArtifactError, match=r"cannot write .*a\\x00b.*choose another"):
        ftplug.save(ftplug.apply(tiny.bert(), "lora"), tmp_path / "a\0b")


def test_a_config_that_its_own_class_refuses_is_one_line(tmp_path):
    model = ftplug.apply(tiny.qwen2(), "full")
    model.config.layer_types = model.config.layer_types[:1]  # of two layers
    with pytest.raises(ftplug.ArtifactError, match=r"config is none .*1.*: change model\.config"):
        ftplug.save(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "cure"), [(errno.ENOSPC, "make room there"), (errno.EROFS, "make it writable")]
)
def test_a_full_disk_and_a_shut_one_are_told_apart(number, cure, tmp_path):
    fails = mock.patch.object(Path, "mkdir", side_effect=OSError(number, os.strerror(number)))
    with fails, pytest.raises(ftplug.ArtifactError, match=cure):
        ftplug.save(ftplug.apply(tiny.bert(), "lora"), tmp_path / "out")
    trains = bound(tmp_path / "trained", save_steps=1)
    with fails, pytest.raises(ftplug.ArtifactError, match=cure):
        trains.train()


@pytest.fixture
def nothing_writable(monkeypatch):
    """Let no folder be made but under pytest's own; a fake, as root may write everywhere."""
    for name in ("TMPDIR", "TEMP", "TMP", "HOME", "HF_HOME"):
        monkeypatch.setenv(name, "/dev/null/x")
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", "/dev/null/x")
        patched.setattr(view, "PLACES", (None, "/dev/null/y"))
        yield


@pytest.mark.usefixtures("nothing_writable")
@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_can_be_written_every_artifact_loads(kind, made, tmp_path, monkeypatch):
    expected = logits(ftplug.load(str(made / "base"), made / kind))
    assert torch.equal(logits(ftplug.load(tiny.bert(), made / kind)), expected)
    assert command(monkeypatch, "verify", made / kind, "--base", made / "base") == 0
    merged = merge_artifact(made / kind, tmp_path / "merged", base=made / "base")
    again = type(tiny.bert()).from_pretrained(merged).eval()
    assert torch.allclose(logits(again), expected, atol=1e-5)


@pytest.mark.usefixtures("nothing_writable")
def test_where_nothing_can_be_written_methods_and_patterns_are_there(monkeypatch, tmp_path):
    assert command(monkeypatch, "methods") == 0
    model = ftplug.apply(tiny.bert(), "lora", target_modules=("*query",))
    assert ftplug.load(tiny.bert(), ftplug.save(shake(model), tmp_path / "a"))


def test_a_view_takes_the_first_place_that_there_is(made, tmp_path, monkeypatch):
    monkeypatch.setattr(view, "PLACES", ("/dev/null/x", str(tmp_path)))
    contents = read_manifest(made / "full").verify_files(made / "full")
    with view.view_of(contents, tiny.bert()) as folder:
        assert folder.parent == tmp_path
        assert (folder / "model.safetensors").is_symlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_writable")
def test_in_its_own_folder_nothing_unlisted_is_read(made, tmp_path):
    folder = ftplug.save(shake(ftplug.apply(tiny.bert(), "full")), tmp_path / "full")
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"")
    with pytest.raises(ftplug.ArtifactError, match=r"00001\.safetensors is not listed .* TMPDIR"):
        ftplug.load(tiny.bert(), folder)


@pytest.mark.usefixtures("nothing_writable")
def test_nor_by_a_third_party(tmp_path, monkeypatch):
    class Reads(Method):
        name = "reads"

        @hookimpl
        def select_trainable(self, model):
            return [name for name, _ in model.named_parameters() if "layer.1" in name]

        @hookimpl
        def load_artifact(self, model, directory):
            raise AssertionError("its hook was called")

    folder = ftplug.save(shake(ftplug.apply(tiny.bert(), Reads())), tmp_path / "artifact")
    monkeypatch.setattr("ftplug.artifacts.loading.methods_of", lambda manifest, folder: [Reads()])
    with pytest.raises(ftplug.ArtifactError, match=r"reads reads files .* set TMPDIR"):
        ftplug.load(tiny.bert(), folder)


def test_where_nothing_can_be_written_a_pipeline_is_the_same(tmp_path, request):
    modules = pytest.importorskip("ftplug.structure.versions").sentence_modules
    try:
        pooling, normalize, dropout = modules()
    except ImportError:
        pytest.skip("sentence-transformers is not installed")
    from ftplug.structure.pipeline import _described, _without_weights

    given = [pooling(32, pooling_mode="cls"), normalize(), dropout(0.25)]
    entries = [json.loads(json.dumps(_described(module))) for module in given]
    usual = [_described(_without_weights(entry)) for entry in entries]
    request.getfixturevalue("nothing_writable")
    assert [_described(_without_weights(entry)) for entry in entries] == usual
