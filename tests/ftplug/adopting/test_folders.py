"""Output folders of training programs: which adapter is meant, and what is left alone."""

import json
import os

import pytest

from ftplug import ArtifactError
from ftplug.adopting import folders


def adapter(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def unsloth(folder):
    """What a run of Unsloth or axolotl leaves: the adapter, checkpoints and much else."""
    adapter(folder)
    for step in (50, 100):
        adapter(folder / f"checkpoint-{step}")
        (folder / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"state")
    for name in ("training_args.bin", "trainer_state.json", "README.md", "tokenizer.json",
                 "special_tokens_map.json", "chat_template.jinja", "optimizer.pt", "debug.log",
                 "axolotl_config.yaml"):  # fmt: skip
        (folder / name).write_bytes(b"{}")
    return folder


def test_the_folders_own_adapter_is_meant_and_strays_stay(tmp_path):
    folder = unsloth(tmp_path / "outputs")
    assert folders.picked(folder) == folder
    copied = folders.copied(folder, tmp_path / "copy")
    assert sorted(copied.sha256) == sorted(p.name for p in (tmp_path / "copy").iterdir())
    assert set(copied.sha256) == {
        "adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json",
        "special_tokens_map.json", "chat_template.jinja",
    }  # fmt: skip
    assert {"checkpoint-50", "optimizer.pt", "training_args.bin"} <= set(copied.strays)


def test_the_only_checkpoint_is_meant(tmp_path):
    adapter(tmp_path / "out" / "checkpoint-7")
    assert folders.picked(tmp_path / "out").name == "checkpoint-7"


def test_of_several_checkpoints_none_is_guessed(tmp_path):
    for step in (9, 100, 20):
        adapter(tmp_path / "out" / f"checkpoint-{step}")
    with pytest.raises(ArtifactError, match=r"3 adapters .*20, checkpoint-100\).*last: .*-100"):
        folders.picked(tmp_path / "out")


def test_what_has_no_adapter_is_refused_by_name(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        folders.picked(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"no adapter_config\.json, so no adapter$"):
        folders.picked(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ArtifactError, match="is a file: name the folder that it lies in"):
        folders.picked(tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match="a whole model"):
        folders.picked(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "README.md"])
def test_a_link_out_of_the_folder_is_not_followed(name, tmp_path):
    folder = adapter(tmp_path / "in")
    (tmp_path / "secret").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    os.symlink(tmp_path / "secret", folder / name)
    with pytest.raises(ArtifactError, match=f"{name} is a link that leads out of its folder"):
        folders.copied(folder, tmp_path / "copy")


def test_the_links_of_the_hubs_cache_are(tmp_path):
    commit = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    adapter(commit)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    os.replace(commit / "adapter_config.json", blobs / "x")
    os.symlink("../../blobs/x", commit / "adapter_config.json")
    copied = folders.copied(commit, tmp_path / "copy")
    assert not (copied.folder / "adapter_config.json").is_symlink()


def test_a_fifo_and_a_folder_are_no_files(tmp_path):
    folder = adapter(tmp_path / "in")
    os.mkfifo(folder / "README.md")
    with pytest.raises(ArtifactError, match=r"README\.md is no file"):
        folders.copied(folder, tmp_path / "copy")


def test_what_is_too_large_for_what_it_is_is_not_read(tmp_path):
    folder = adapter(tmp_path / "in")
    with open(folder / "tokenizer.json", "wb") as file:
        file.truncate(2**27)
    with pytest.raises(ArtifactError, match="134,217,728 bytes are too many"):
        folders.copied(folder, tmp_path / "copy")
