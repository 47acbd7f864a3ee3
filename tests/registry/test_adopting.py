"""``ftplug adopt`` as a person types it: of a folder, and of a repository."""

import json
import shutil

import peft
import pytest
import torch
from transformers import BertForSequenceClassification

import ftplug
from ftplug import cli


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """An adapter as peft alone saves it, with its author's card."""
    folder = tmp_path_factory.mktemp("plain") / "reviews-lora"
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(folder)
    card = "---\nlicense: mit\nbase_model: org/bert\n---\nOf hotels \x1b[31malone.\n"
    (folder / "README.md").write_text(card)
    (folder / "training_args.bin").write_bytes(b"a pickle")
    return folder


def test_a_folder_says_what_it_was_and_what_it_is(typed, base, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = typed("adopt", plain, "--base", base)
    assert (code, err) == (0, "")
    assert "a LORA adapter of peft" in out
    assert "is now lora (r=4" in out
    assert "answers: as peft's, to 8 inputs (largest difference 0)" in out
    assert "left there: training_args.bin" in out
    assert 'ftplug.load("' in out
    assert "ftplug push reviews-lora-adopted ORG/NAME" in out
    code, out, _ = typed("verify", "reviews-lora-adopted", "--base", base)
    assert code == 0
    assert "the weights it was trained on" in out


def test_a_repository_is_fetched_adopted_and_can_be_published(
    typed, client, base, plain, repo_id, tmp_path
):
    client.create_repo(repo_id)
    client.upload_folder(repo_id=repo_id, folder_path=plain)
    to = tmp_path / "to"
    code, out, err = typed("adopt", repo_id, "--base", base, "--to", to, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["methods"][0]["name"] == "lora"
    assert said["largest_difference"] == 0.0
    assert said["repository"] == repo_id
    assert len(said["sha"]) == 40
    card = (to / "README.md").read_text()
    assert f"[`{repo_id}`]" in card
    assert "Of hotels [31malone." in card
    code, out, err = typed("push", to, f"{repo_id}-adopted")
    assert code == 0, err
    loaded = ftplug.load(base, f"{repo_id}-adopted")
    assert type(loaded).__name__ == "BertForSequenceClassification"


def test_a_repositorys_pickle_is_downloaded_only_on_request(
    typed, client, base, plain, repo_id, tmp_path
):
    shutil.copytree(plain, tmp_path / "in")
    tensors = peft.utils.load_peft_weights(str(plain), device="cpu")
    (tmp_path / "in" / "adapter_model.safetensors").unlink()
    torch.save(dict(tensors), tmp_path / "in" / "adapter_model.bin")
    client.create_repo(repo_id)
    client.upload_folder(repo_id=repo_id, folder_path=tmp_path / "in")
    arguments = ("adopt", repo_id, "--base", base, "--to", tmp_path / "to")
    code, out, err = typed(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "adapter_model.bin is a pickle" in err
    assert typed(*arguments, "--allow-pickle")[0] == 0


def test_refusals_are_one_line(typed, client, base, plain, repo_id, tmp_path):
    client.create_repo(repo_id)
    client.upload_file(
        repo_id=repo_id, path_in_repo="checkpoint-5/adapter_config.json", path_or_fileobj=b"{}"
    )
    for arguments, said in (
        ((repo_id, "--base", base), "there are some below (checkpoint-5)"),
        (("alice/none-such", "--base", base), "alice/none-such"),
        ((plain, "--base", base, "--revision", "main"), "a local folder has no revision"),
        ((plain, "--base", base, "--base-revision", "main"), "a local folder has no revision"),
        ((plain, "--base", tmp_path / "none"), "cannot load the base"),
        ((plain, "--base", base, "--to", plain), "exists already"),
    ):
        code, out, err = typed("adopt", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1), err
        assert said in err


def test_help_says_what_is_read(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ftplug", "adopt", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    out = " ".join(capsys.readouterr().out.split())
    for text in ("Unsloth", "axolotl", "AdapterHub", "MLX", "Example: ftplug adopt"):
        assert text in out
