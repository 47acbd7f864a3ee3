"""Every example runs, on a tiny encoder, and leaves an artifact that loads on a fresh base."""

import json
import runpy
import sys
from pathlib import Path

import folders
import pytest

import ftplug

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return folders.encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize(
    ("script", "method"),
    [
        ("bert_full_loop.py", "full"),
        ("bert_frozen_loop.py", "freeze"),
        ("bert_trainer.py", "lora"),
    ],
)
def test_an_example_trains_and_saves(script, method, encoder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["--model", encoder, "--output", out, "--rows", 60, "--epochs", 3]
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    assert "accuracy" in capsys.readouterr().out
    manifest = json.loads((out / "ftplug.json").read_text())
    assert manifest["methods"][0]["name"] == method
    assert "tokenizer.json" in manifest["files"]
    model = ftplug.load(encoder, out)
    assert type(model).__name__ == "BertForSequenceClassification"
    if script == "bert_trainer.py":
        checkpoints = sorted(path.name for path in out.glob("checkpoint-*"))
        assert 1 <= len(checkpoints) <= 2
        assert manifest["training"]["metrics"]["eval_accuracy"] > 0


def test_every_example_is_tested():
    scripts = {path.name for path in EXAMPLES.glob("bert_*.py")}
    assert scripts == {"bert_full_loop.py", "bert_frozen_loop.py", "bert_trainer.py"}
