"""Every command and every code block of the README runs, but for the two set-up commands."""

import copy
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import folders
import hub as hubs
import pytest
import script
import tiny
import torch
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub
from runs import logits, rows, shake

import ftplug
from ftplug import cli

README = Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+?)(?:\s+#.*)?$", README, re.MULTILINE)
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SET_UP = {"make demo", "make test"}


def in_process(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ftplug", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_commands_run_in_the_readmes_order(tmp_path, monkeypatch, capsys, subtests):
    shutil.copy(script.__file__, tmp_path / "train.py")
    monkeypatch.chdir(tmp_path)
    with (
        EmbeddedHub(tmp_path / "hub", accounts=(Account("ann"),)) as server,
        hubs.client(server, "ann", home=tmp_path / "home"),
    ):
        for command in COMMANDS:
            if command not in SET_UP:
                with subtests.test(command):
                    a_command_runs(command, tmp_path, monkeypatch, capsys)
        with subtests.test("the block that loads what was published"):
            what_was_published_loads(tmp_path)


def a_command_runs(command, folder, monkeypatch, capsys):
    program, *arguments = shlex.split(command)
    if program == "torchrun":
        run_on_two_processes(arguments)
        return
    assert program == "ftplug"
    if arguments[0] == "serve":
        serves_until_stopped(arguments)
        return
    if arguments[0] == "demo":
        stand_in_for_the_real_model(monkeypatch, folder)
    printed = in_process(arguments, monkeypatch, capsys)
    expected = {
        "demo": "held-out",
        "methods": "lora",
        "run": "dry run" if "--dry-run" in arguments else "",
        "push": "published http://127.0.0.1",
        "search": "ann/reviews",
        "show": "freeze (layers=2",
        "pull": "files verified",
        "verify": "sha256 as in the manifest",
        "new": "pip install",
    }
    assert expected[arguments[0]] in printed.lower()
    if "--report" in arguments:
        assert json.loads((folder / "report.json").read_text())["runs"][0]["tensors"]["moved"] > 0


def stand_in_for_the_real_model(monkeypatch, folder):
    """The demo on a tiny encoder: the real one runs in tests/demo."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import ftplug.demo
    from ftplug.demo import data

    encoder = folders.encoder(folder / "encoder")

    def load_base():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForSequenceClassification.from_pretrained(encoder)
        return model, AutoTokenizer.from_pretrained(encoder)

    parts = data.split(data.read_sentences(), test=16, train=64, validation=16)
    quick = functools.partial(ftplug.demo.run_demo, load_base=load_base, parts=parts)
    monkeypatch.setattr(ftplug.demo, "run_demo", quick)


def serves_until_stopped(arguments):
    command = [sys.executable, "-u", "-m", "ftplug", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert any("export HF_ENDPOINT=http://127.0.0.1:" in line for line in server.stdout)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


def what_was_published_loads(folder):
    """The base of the stand-in is a folder; its labels came with the artifact."""
    names = {"base": folder / "encoder"}
    exec(BLOCKS[4], names)
    assert names["model"].config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert names["ask"]("the good")[0]["score"] > 0


def run_on_two_processes(arguments):
    torchrun = [sys.executable, "-m", "torch.distributed.run", *arguments]
    paths = {"PYTHONPATH": str(Path(tiny.__file__).parent)}
    subprocess.run(torchrun, check=True, env=os.environ | paths)
    training = json.loads(Path("out/ftplug.json").read_text())["training"]
    assert training["hyperparameters"]["processes"] == 2


def test_the_two_set_up_commands_are_make_targets():
    makefile = Path(__file__).parents[1].joinpath("Makefile").read_text()
    assert set(COMMANDS) >= SET_UP
    for command in SET_UP:
        assert f"\n{command.split()[1]}: .venv/installed" in makefile


def test_the_trainer_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny.bert()
    names = {"model": copy.deepcopy(base), "fresh_base": base, "data": rows(base)}
    exec(BLOCKS[0], names)
    assert torch.equal(logits(names["again"]), logits(names["model"]))


def test_the_loop_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tiny.bert()
    batch = tiny.inputs(base)
    names = {"torch": torch, "ftplug": ftplug, "model": copy.deepcopy(base), "batch": batch}
    exec(BLOCKS[1].replace("...", "shake(model)"), names | {"shake": shake}, names)
    assert torch.equal(names["reference"], logits(base, batch))


def test_the_plugin_block_is_a_whole_plugin(tmp_path, monkeypatch, capsys):
    package = tmp_path / "site"
    info = package / "ftplug_biases-0.1.dist-info"
    info.mkdir(parents=True)
    (package / "ftplug_biases.py").write_text(BLOCKS[2])
    (info / "METADATA").write_text("Name: ftplug-biases\nVersion: 0.1\n")
    line = re.search(r"`(biases = .*?)`", README)[1].replace('"', "")  # as build tools write it
    (info / "entry_points.txt").write_text(f"[ftplug.methods]\n{line}\n")
    monkeypatch.syspath_prepend(str(package))
    importlib.invalidate_caches()
    assert "biases" in in_process(["methods"], monkeypatch, capsys)

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
    exec(BLOCKS[2], plugin.__dict__)
    names = {}
    exec(BLOCKS[3], names)
    contract = names["TestBiases"]
    assert contract.method == plugin.Biases.name
    for family, reason in contract.unfit.items():
        checks.refused_in_one_line(Case(plugin.Biases, family), reason)
    checks.every_tensor_moves(Case(plugin.Biases, "bert"))
    checks.nothing_else_moves(Case(plugin.Biases, "bert"))


def test_every_link_leads_somewhere():
    root = Path(__file__).parents[1]
    for name in ("README.md", "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)]+)\)", (root / name).read_text())
        inside = [link for link in links if not link.startswith("http")]
        assert [link for link in inside if not (root / link).exists()] == []
