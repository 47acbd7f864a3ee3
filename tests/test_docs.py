"""Every command and every Python block of README and docs runs; what they say of the code is so."""

import ast
import copy
import functools
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import typing
from pathlib import Path

import folders
import hub as hubs
import pytest
import script
import tiny
import torch
from documents import DOCS, INSTALL, PAGES, README, ROOT, SET_UP
from ftplug_registry.server.accounts import Account
from ftplug_registry.server.embedded import EmbeddedHub
from runs import rows, trainer
from transformers import Trainer, TrainingArguments

import ftplug
from ftplug import cli, hookspecs
from ftplug.attaching.attachment import require_attachment
from ftplug.context import RunView
from ftplug.method import Kind, Method
from ftplug.testing import Case, checks

METHODS_PAGE = next(page for page in DOCS if page.path.name == "writing-a-method.md")
LAUNCHERS_PAGE = next(page for page in DOCS if page.path.name == "launching.md")
NEEDS_HUB = '"ann/reviews"'  # the repository that the pages' commands publish


def in_process(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ftplug", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code, capsys.readouterr().err
    return capsys.readouterr().out


def stand_ins(block):
    """What the reader of a block has: a model, a fresh one of the same base, data, a Trainer."""
    base = tiny.bert()
    names = {
        "torch": torch, "ftplug": ftplug, "Trainer": Trainer, "model": copy.deepcopy(base),
        "another_model": copy.deepcopy(base), "base": base, "fresh_base": base,
        "data": rows(base), "batch": tiny.inputs(base),
    }  # fmt: skip
    if re.search(r"\bargs\b", block):
        names["args"] = TrainingArguments("out", report_to=[])
    return names


def run_blocks(page):
    """Run a page's blocks in one namespace, each with stand-ins of its own; return what is left."""
    names = {}
    for block in page.blocks("python"):
        if NEEDS_HUB not in block:
            names |= stand_ins(block)
            exec(compile(block, str(page), "exec"), names)
    return names


@pytest.mark.slow
def test_the_commands_run_in_the_pages_order(tmp_path, monkeypatch, capsys, subtests):
    shutil.copy(script.__file__, tmp_path / "train.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FTPLUG_CONFIG", str(tmp_path / "settings"))
    first = README.blocks("python")[0]
    exec(first, stand_ins(first))  # the artifact that the next command shows
    commands = dict.fromkeys(c for page in [README, *DOCS] for c in page.commands)
    with (
        EmbeddedHub(tmp_path / "hub", accounts=(Account("ann"),)) as server,
        hubs.client(server, "ann", home=tmp_path / "home"),
    ):
        for command in commands:
            if command not in (*SET_UP, *INSTALL):
                with subtests.test(command):
                    a_command_runs(command, tmp_path, monkeypatch, capsys)
        blocks = [b for page in [README, *DOCS] for b in page.blocks("python") if NEEDS_HUB in b]
        for block in dict.fromkeys(blocks):
            with subtests.test(block):
                what_was_published_loads(block, tmp_path)


def a_command_runs(command, folder, monkeypatch, capsys):
    program, *arguments = shlex.split(command)
    if program == "torchrun":
        run_on_two_processes(arguments)
        return
    assert program == "ftplug"
    if arguments[0] == "serve":
        serves_until_stopped(arguments)
        return
    if arguments[0] == "adopt":
        an_adapter_of_plain_peft(folder)
    if arguments[0] == "demo":
        stand_in_for_the_real_model(monkeypatch, folder)
    printed = in_process(arguments, monkeypatch, capsys)
    expected = {
        "adopt": "is now lora (r=4",
        "advise": "forward and backward",
        "demo": "held-out",
        "merge": "a plain model of",
        "methods": arguments[1] if len(arguments) == 2 and arguments[1][0] != "-" else "lora",
        "run": "dry run" if "--dry-run" in arguments else "",
        "push": "nothing was sent" if "--dry-run" in arguments else "published http://127.0.0.1",
        "search": "ann/reviews",
        "show": "freeze (layers=2" if "ann/reviews" in arguments else "lora (r=8",
        "pull": "files verified",
        "verify": "sha256 as in the manifest",
        "new": "pip install",
        "keygen": "fingerprint",
        "sign": "signed, key",
        "site": "artifacts, ",
        "trust": "is pinned" if len(arguments) == 3 else "",
        "history": "lora.r 8 -> 4",
        "diff": "setting\tlora.r\t8\t4",
        "promote": "production points to",
        "deprecate": "is no longer deprecated" if "--undo" in arguments else "is deprecated: ",
        "withdraw": "is no longer withdrawn" if "--undo" in arguments else "is withdrawn: ",
        "du": " bytes",
    }
    assert expected[arguments[0]] in printed.lower()
    if "--report" in arguments:
        assert json.loads((folder / "report.json").read_text())["runs"][0]["tensors"]["moved"] > 0


def an_adapter_of_plain_peft(folder):
    """The folder that the page on adopting speaks of, for the encoder of the demo's stand-in."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(folder / "encoder")
    config = LoraConfig(task_type="SEQ_CLS", r=4, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder / "reviews-lora")


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


def run_on_two_processes(arguments):
    torchrun = [sys.executable, "-m", "torch.distributed.run", *arguments]
    paths = {"PYTHONPATH": str(Path(tiny.__file__).parent)}
    subprocess.run(torchrun, check=True, env=os.environ | paths)
    training = json.loads(Path("out/ftplug.json").read_text())["training"]
    assert training["hyperparameters"]["processes"] == 2


def what_was_published_loads(block, folder):
    """The base of the stand-in is a folder; its labels came with the artifact."""
    names = {"base": folder / "encoder"}
    exec(block, names)
    if "by-ann" in block:
        assert names["model"].config.model_type == "bert"
    elif "ask" in names:
        assert names["model"].config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
        assert names["ask"]("the good")[0]["score"] > 0
    else:
        assert names["found"].repo_id in ("ann/reviews", "ann/signed")  # one artifact
        assert (names["pulled"] / "ftplug.json").is_file()


@pytest.mark.parametrize("page", [p for p in DOCS if p is not LAUNCHERS_PAGE], ids=str)
def test_the_python_blocks_of_a_page_run_in_its_order(page, tmp_path, monkeypatch):
    """Those that need a launcher run in test_launching.py and ray_train/."""
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_says_what_it_is(page):
    of_launchers = {"bash", "yaml"} if page is LAUNCHERS_PAGE else set()  # test_launching.py
    assert page.languages <= {"console", "python", "text", "toml"} | of_launchers
    assert page.prose.count("```") == 0


def test_every_hook_stands_with_its_signature():
    """As ftplug/hookspecs.py spells it, in the order a run meets them."""
    tree = ast.parse(inspect.getsource(hookspecs))
    specs = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "HookSpecs")
    hooks = [node for node in specs.body if isinstance(node, ast.FunctionDef)]
    spelled = [f"{n.name}({ast.unparse(n.args)}) -> {ast.unparse(n.returns)}\n" for n in hooks]
    assert METHODS_PAGE.blocks("text") == spelled
    headings = re.findall(r"^### (\w+)$", METHODS_PAGE.prose, re.MULTILINE)
    assert headings == [node.name for node in hooks]


def test_every_hook_has_an_example():
    examples = "".join(METHODS_PAGE.blocks("python"))
    for name in vars(hookspecs.HookSpecs):
        if not name.startswith("_"):
            assert f"def {name}(self" in examples


def test_every_attribute_of_the_run_is_explained():
    public = {name for name in vars(RunView) if not name.startswith("_")}
    assert public == set(re.findall(r"^\| `run\.(\w+)", METHODS_PAGE.prose, re.MULTILINE))


def test_what_a_class_may_say_is_what_there_is():
    kinds = re.search(r"^\| `kind` .*$", METHODS_PAGE.prose, re.MULTILINE)[0]
    assert set(typing.get_args(Kind)) <= set(re.findall(r"`(\w+)`", kinds))
    section = METHODS_PAGE.prose.partition("## What a class may say")[2].partition("\n## ")[0]
    named = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    for name in re.findall(r"`(\w+)", " ".join(named)):
        assert hasattr(Method, name)


def test_what_to_import_is_there():
    section = METHODS_PAGE.prose.partition("## What to import")[2].partition("\n## ")[0]
    for module, names in re.findall(r"^\| `(ftplug[\w.]*)` \| (.*) \|$", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.fixture(scope="module")
def examples():
    """The methods that the page defines: those with a hook, by name."""
    names = run_blocks(METHODS_PAGE)
    found = [v for v in names.values() if isinstance(v, type) and issubclass(v, Method)]
    return {v.name: v for v in found if any(hasattr(f, "ftplug_impl") for f in hooks_of(v))}, names


def hooks_of(cls):
    return [getattr(cls, name) for name in vars(hookspecs.HookSpecs) if hasattr(cls, name)]


@pytest.mark.slow
def test_the_examples_keep_the_contract(examples, subtests):
    methods, _ = examples
    assert len(methods) == 12
    for name, cls in methods.items():
        with subtests.test(name):
            case = Case(cls, "bert")
            checks.every_tensor_moves(case)
            checks.nothing_else_moves(case)
            checks.the_schedule_covers_all(case)
            checks.resume_is_bit_equal(case)
            checks.a_loaded_artifact_gives_equal_logits(case)
            checks.disabled_is_the_base(case)
            checks.merged_equals_the_forward(case)


def test_the_example_of_a_migration_moves_the_setting(examples):
    _, names = examples
    moved = names["init_is_start"]({"init": 1.0, "target_modules": ["key"]})
    assert moved == [("shift-from", {"target_modules": ["key"], "start": 1.0})]
    assert names["init_is_start"](moved[0][1]) is None
    assert names["ShiftFrom"].configure(moved[0][1]).start == 1.0


def test_the_example_of_a_state_keeps_one(examples, tmp_path):
    model = tiny.bert()
    run = trainer(model, tmp_path, max_steps=3)
    ftplug.attach(run, examples[0]["drift"]())
    run.train()
    assert require_attachment(model).facts.states["drift"]["drift"] > 0


def test_the_example_of_a_log_is_logged(examples, tmp_path):
    run = trainer(tiny.bert(), tmp_path, max_steps=3)
    ftplug.attach(run, examples[0]["drift"]())
    run.train()
    assert all("drift" in log for log in run.state.log_history if "loss" in log)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_leads_somewhere(page):
    anchors = {other.path: other.anchors for other in PAGES}
    for link in page.links:
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        assert not anchor or anchor in anchors[target], link


@pytest.mark.parametrize("page", DOCS, ids=str)
def test_every_page_can_be_found(page):
    index = next(other for other in DOCS if other.path.name == "README.md")
    assert page in (index, *(p for p in DOCS if p.path.name in index.links))
    assert page is index or f"docs/{page.path.name}" in README.links


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_no_command_installs_what_is_not_published(page):
    for packages in re.findall(r"pip install ([^`\n]+)", page.text):
        ours = [word for word in shlex.split(packages) if word.startswith("ftplug")]
        assert all("git+" in word for word in ours), packages
