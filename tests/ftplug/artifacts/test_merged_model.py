"""``ftplug merge``: a plain model with equal logits, or a refusal that leaves nothing behind."""

import folders
import pytest
import torch
from runs import logits, shake
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import ftplug
from ftplug import ArtifactError, cli
from ftplug.artifacts import merged_model
from ftplug.artifacts.merged_model import merge_artifact


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return folders.encoder(tmp_path_factory.mktemp("base"))


def saved(base, folder, method, **settings):
    model = AutoModelForSequenceClassification.from_pretrained(base, id2label={0: "no", 1: "yes"})
    shake(ftplug.apply(model, method, **settings))
    ftplug.save(model, folder, processing_class=AutoTokenizer.from_pretrained(base))
    return model


@pytest.mark.parametrize(
    ("method", "settings"), [("lora", {"r": 4}), ("freeze", {"layers": 1}), ("full", {})]
)
def test_the_merged_model_is_plain_and_answers_the_same(method, settings, base, tmp_path):
    model = saved(base, tmp_path / "artifact", method, **settings)
    merged = merge_artifact(tmp_path / "artifact", tmp_path / "merged", base=base)
    plain = AutoModelForSequenceClassification.from_pretrained(merged)
    assert torch.allclose(logits(plain), logits(model), atol=1e-5)
    assert plain.config.id2label == {0: "no", 1: "yes"}
    assert AutoTokenizer.from_pretrained(merged)("the good") == AutoTokenizer.from_pretrained(base)(
        "the good"
    )
    names = {path.name for path in merged.iterdir()}
    assert not names & {"ftplug.json", "adapter_config.json", "adapter_model.safetensors"}


def test_what_another_one_put_there_meanwhile_stays(base, tmp_path, monkeypatch):
    saved(base, tmp_path / "artifact", "lora", r=4)
    fold = merged_model.merge

    def meanwhile(model):
        (tmp_path / "to").mkdir()
        (tmp_path / "to" / "mine").touch()
        return fold(model)

    monkeypatch.setattr(merged_model, "merge", meanwhile)
    with pytest.raises(ArtifactError, match="exists already"):
        merge_artifact(tmp_path / "artifact", tmp_path / "to", base=base)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["mine"]


def typed(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["ftplug", "merge", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code or 0, *capsys.readouterr()


def test_the_command_and_its_refusals(base, tmp_path, monkeypatch, capsys):
    saved(base, tmp_path / "lora", "lora", r=4)
    saved(base, tmp_path / "prefix", "prefix-tuning", num_virtual_tokens=4)
    merged = tmp_path / "merged"
    code, out, err = typed(monkeypatch, capsys, tmp_path / "lora", "--to", merged, "--base", base)
    assert (code, "from_pretrained reads it" in out) == (0, True)
    for artifact, to, said in (
        ("lora", "merged", "exists already"),
        ("prefix", "other", "cannot be folded"),
        ("nowhere", "other", "no such folder"),
    ):
        arguments = (tmp_path / artifact, "--to", tmp_path / to, "--base", base)
        code, out, err = typed(monkeypatch, capsys, *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert said in err
    code, _, err = typed(monkeypatch, capsys, tmp_path / "lora", "--to", tmp_path / "other")
    assert (code, "--base" in err) == (1, True)
    assert not (tmp_path / "other").exists()
