"""``ftplug advise``: a stranger's script runs up to its first ``train()``, and is advised on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import script
import typer
from folders import script_inputs
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.lora import Lora
from script_cells import SCRIPTS
from typer.testing import CliRunner

import ftplug
from ftplug.advising import measuring
from ftplug.advising.command import add_commands
from ftplug.advising.launch import Advising
from ftplug.training.script import Launch

SCRIPT = Path(script.__file__)


@pytest.fixture(autouse=True)
def _one_pair(monkeypatch):
    monkeypatch.setattr(measuring, "MOST", 1)


def test_a_script_is_advised_on_and_trains_nothing(tmp_path):
    before = Launch([]).callbacks_of_a_trainer
    said = Advising([]).advise([str(SCRIPT), "--out", str(tmp_path / "out")])
    assert said.startswith("ftplug advise\n  Trainer trains ")
    assert "of BertForSequenceClassification\n  on cpu: epochs 2.5, batch size 4\n" in said
    assert "bf16=True" in said
    assert not (tmp_path / "out/seen.pt").exists()
    assert not list((tmp_path).rglob("*.safetensors"))
    assert Launch.callbacks_of_a_trainer is before.__func__


def test_with_a_method_it_is_looked_at_as_the_method_trains_it(tmp_path):
    report = tmp_path / "report.json"
    launch = Advising([Lora(r=4)], report=report)
    said = launch.advise([str(SCRIPT), "--out", str(tmp_path / "out")])
    assert "trains 1,090 of" in said
    assert "by lora" in said
    kept = json.loads(report.read_text())
    assert kept["seen"]["methods"] == ["lora"]
    assert kept["seen"]["parameters"]["trained"] == 1090
    assert kept["command"][0] == str(SCRIPT)
    assert kept["failed"] == {}
    assert {piece["setting"] for piece in kept["advice"]} >= {"bf16=True"}
    assert all(type(piece["change"]) is bool for piece in kept["advice"])


def test_frozen_layers_are_advised_on(tmp_path):
    said = Advising([Freeze(layers=1)]).advise([str(SCRIPT), "--out", str(tmp_path)])
    assert "--method freeze --method trunk-cache" in said


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return script_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.filterwarnings("ignore")  # what others' code warns about is not ours
@pytest.mark.parametrize("name", ["trl-sft", "trl-dpo", "embed", "translate", "classify"])
def test_other_peoples_scripts_are_advised_on(name, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2] / "scripts")
    one = SCRIPTS[name]
    launch = Advising([Lora(r=4)])
    said = launch.advise(one.command(inputs, tmp_path), module=one.module)
    assert launch.found[0].failed == {}
    assert "a step: " in said


def test_without_train_there_is_nothing_to_advise_on(tmp_path):
    never = tmp_path / "never.py"
    never.write_text(
        "import tiny\nfrom runs import trainer\ntrainer(tiny.bert(), '.', use_cpu=True)\n"
    )
    with pytest.raises(ftplug.FtplugError, match=r"never\.py never called train\(\)"):
        Advising([]).advise([str(never)])
    never.write_text("")
    with pytest.raises(ftplug.MethodError, match=r"never\.py built no transformers Trainer"):
        Advising([]).advise([str(never)])


def test_a_script_that_is_not_there_is_said():
    with pytest.raises(ftplug.FtplugError, match=r"no script at none\.py"):
        Advising([]).advise(["none.py"])


def test_a_script_that_fails_ends_as_it_would(tmp_path):
    failing = tmp_path / "failing.py"
    failing.write_text("raise SystemExit(4)")
    with pytest.raises(SystemExit, match="4"):
        Advising([]).advise([str(failing)])


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ftplug.FtplugError, match="advise looks at one process"):
        Advising([]).advise([str(SCRIPT), "--out", "."])


def test_the_help_teaches():
    app = typer.Typer(rich_markup_mode=None)
    add_commands(app)
    text = CliRunner().invoke(app, ["--help"]).output
    assert "Example: ftplug advise --method lora -- train.py" in text
    assert "--seconds" in text


@pytest.mark.slow
def test_the_command_prints_what_was_found(tmp_path):
    command = [sys.executable, "-m", "ftplug", "advise", "--seconds", "0.1", "--"]
    done = subprocess.run(
        [*command, str(SCRIPT), "--out", str(tmp_path)],
        capture_output=True, text=True, timeout=300, cwd=SCRIPT.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Looked at, better left" in done.stdout or "Worth changing" in done.stdout
    assert "looking at bf16" in done.stderr
