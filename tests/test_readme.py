"""The README: short, installable within its first sections, and its blocks do what they show."""

import copy
import importlib
import re
import sys
import tomllib
import types

import pytest
import tiny
import torch
from documents import INSTALL, README, ROOT, SET_UP
from runs import logits, rows, shake
from transformers import Trainer, TrainingArguments

import ftplug
from ftplug import cli
from ftplug.demo import data, minilm

TRAINER, THREE_WAYS, LOOP, PLUGIN, CONTRACT, _ = README.blocks("python")
SHOWN = next(block for block in README.blocks("console") if "ftplug show artifact" in block)
WORDS = 1800


def test_it_is_short():
    assert len(README.prose.split()) <= WORDS


def test_the_way_to_install_it_stands_near_the_top():
    first = "".join(README.sections[:3])
    assert all(f"$ {command}\n" in first for command in INSTALL)


def test_the_versions_are_those_that_it_is_built_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {re.split(r"\W", text)[0]: text for text in project["dependencies"]}
    for name in ("torch", "transformers", "peft", "accelerate"):
        assert f"`{needed[name]}`" in README.sections[1]
    assert f"`{project['requires-python']}`" in README.sections[1]


def test_the_two_set_up_commands_are_make_targets():
    makefile = (ROOT / "Makefile").read_text()
    assert set(README.commands) >= set(SET_UP)
    for command in SET_UP:
        assert f"\n{command.split()[1]}: .venv/installed" in makefile


def test_the_trainer_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny.bert()
    names = {"model": copy.deepcopy(base), "fresh_base": base, "data": rows(base)}
    exec(TRAINER, names)
    assert torch.equal(logits(names["again"]), logits(names["model"]))


@pytest.mark.real
def test_what_it_shows_is_what_comes_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (model, tokenizer), (fresh_base, _) = minilm.load_base(), minilm.load_base()
    sentences = data.split(data.read_sentences()).train[:160]
    encoded = [tokenizer(s.text, truncation=True, max_length=32) for s in sentences]
    examples = [{**e, "label": s.label} for e, s in zip(encoded, sentences, strict=True)]
    names = {"model": model, "fresh_base": fresh_base, "data": examples}
    block = TRAINER.replace("max_steps=20", "max_steps=2, report_to=[], disable_tqdm=True")
    block = block.replace("train_dataset=data", "train_dataset=data, processing_class=tokenizer")
    exec(block, names | {"tokenizer": tokenizer})
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["ftplug", "show", "artifact"])
    with pytest.raises(SystemExit):
        cli.main()
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in SHOWN.splitlines()[1:] if line not in printed] == []


def test_the_three_ways_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny.bert()
    names = {
        "Trainer": Trainer,
        "model": copy.deepcopy(base),
        "another_model": copy.deepcopy(base),
        "args": TrainingArguments("out", max_steps=2, save_strategy="no", report_to=[]),
        "data": rows(base),
    }
    exec(THREE_WAYS, names)
    names["trainer"].train()
    names["another"].train()
    assert torch.equal(logits(names["model"]), logits(names["another_model"]))


def test_the_loop_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny.bert()
    batch = tiny.inputs(base)
    names = {"torch": torch, "ftplug": ftplug, "model": copy.deepcopy(base), "batch": batch}
    exec(LOOP.replace("...", "shake(model)"), names | {"shake": shake}, names)
    assert torch.equal(names["reference"], logits(base, batch))


def test_the_plugin_block_is_a_whole_plugin(tmp_path, monkeypatch, capsys):
    package = tmp_path / "site"
    info = package / "ftplug_biases-0.1.dist-info"
    info.mkdir(parents=True)
    (package / "ftplug_biases.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Name: ftplug-biases\nVersion: 0.1\n")
    line = re.search(r"`(biases = .*?)`", README.text)[1].replace('"', "")  # as build tools do
    (info / "entry_points.txt").write_text(f"[ftplug.methods]\n{line}\n")
    monkeypatch.syspath_prepend(str(package))
    importlib.invalidate_caches()
    monkeypatch.setattr("sys.argv", ["ftplug", "methods"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "biases" in capsys.readouterr().out

    base = tiny.bert()
    model = ftplug.apply(copy.deepcopy(base), "biases", contains="attention")
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names - {"classifier.weight", "classifier.bias"} == {
        n for n, _ in base.named_parameters() if n.endswith("bias") and "attention" in n
    }
    ftplug.save(shake(model), tmp_path / "a")
    assert torch.equal(logits(ftplug.load(base, tmp_path / "a")), logits(model))


def test_the_contract_block_holds_for_the_plugin_block(monkeypatch):
    from ftplug.testing import Case, checks

    plugin = types.ModuleType("ftplug_biases")
    monkeypatch.setitem(sys.modules, "ftplug_biases", plugin)
    exec(PLUGIN, plugin.__dict__)
    names = {}
    exec(CONTRACT, names)
    contract = names["TestBiases"]
    assert contract.method == plugin.Biases.name
    for family, reason in contract.unfit.items():
        checks.refused_in_one_line(Case(plugin.Biases, family), reason)
    checks.every_tensor_moves(Case(plugin.Biases, "bert"))
    checks.nothing_else_moves(Case(plugin.Biases, "bert"))
