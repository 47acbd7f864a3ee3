"""``ftplug run --like DIR``: the winner's methods, settings, rate and seed, on any script."""

import json
import sys
from pathlib import Path

import comparisons
import pytest
import script
import torch

from ftplug import FtplugError, cli
from ftplug.comparing.like import Winner
from ftplug.comparing.results import to_line

SCRIPT = Path(script.__file__)


@pytest.fixture
def compared(tmp_path):
    """The folder of a comparison of the tiny script, whose winner is LoRA of rank 8."""
    directory = tmp_path / "cmp"
    comparisons.written(directory, command=(str(SCRIPT), "--out", "{cell}"), dataset_name="mine")
    return directory


@pytest.fixture
def typed(monkeypatch, capsys):
    """Return ``typed(*arguments)``: exit code, standard output and error of a command."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ftplug", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


def test_the_winner_is_read_with_its_settings_rate_and_seed(compared):
    won = Winner.read(compared, {})
    assert [(method.name, method.r) for method in won.methods] == [("lora", 8)]
    assert (won.lr, won.seed) == (3e-4, 0)


def test_the_seed_is_the_first_that_finished(compared):
    results = [r for r in comparisons.results() if (r.lr, r.seed) != (3e-4, 0)]
    (compared / "results.jsonl").write_text("".join(to_line(r) + "\n" for r in results))
    assert Winner.read(compared, {}).seed == 1


def test_it_trains_as_the_winner_was(compared, tmp_path, monkeypatch, typed):
    monkeypatch.chdir(tmp_path / "cmp")
    code, _, _ = typed("run", "--like", ".", "--report", "r.json")
    assert code == 0
    [run] = json.loads((compared / "r.json").read_text())["runs"]
    assert [(m["name"], m["settings"]["r"]) for m in run["methods"]] == [("lora", 8)]
    facts = run["training"]["hyperparameters"]
    assert facts["learning_rate"] == 3e-4
    assert run["training"]["seed"] == 0
    manifest = json.loads((compared / "again" / "ftplug.json").read_text())
    assert manifest["author"]["dataset_names"] == ["mine"]
    assert torch.load(compared / "again" / "seen.pt")["argv"] == ["--out", str(compared / "again")]
    assert Path.cwd() == tmp_path  # where the comparison ran


def test_a_command_of_ones_own_stays_where_it_is(compared, tmp_path, monkeypatch, typed):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, _, _ = typed(
        *("run", "--like", compared, "--seed", 5, "--report", "r.json", "--"),
        *(SCRIPT, "--out", "mine"),
    )
    assert code == 0
    assert Path.cwd() == tmp_path / "here"
    [run] = json.loads((tmp_path / "here" / "r.json").read_text())["runs"]
    assert run["training"]["seed"] == 5
    assert (tmp_path / "here" / "mine" / "ftplug.json").is_file()


@pytest.mark.parametrize(
    "other", [["--method", "lora"], ["--set", "r=4"], ["--lr", "1e-3"], ["--from", "folder"]]
)
def test_what_says_something_else_is_refused_in_a_line(compared, typed, other):
    code, _, err = typed("run", "--like", compared, *other, "--", SCRIPT)
    assert code == 1
    assert err.count("\n") == 1
    assert f"leave out {other[0]}, or --like" in err


def test_what_is_no_comparison_is_named(compared, tmp_path):
    with pytest.raises(FtplugError, match=r"comparison\.json: no comparison"):
        Winner.read(tmp_path, {})
    (compared / "summary.json").write_text("{}")
    with pytest.raises(FtplugError, match=r"summary\.json: no summary"):
        Winner.read(compared, {})
    comparisons.summary(best=None).write(compared)
    with pytest.raises(FtplugError, match="nothing finished"):
        Winner.read(compared, {})
    comparisons.summary().write(compared)
    (compared / "results.jsonl").unlink()
    with pytest.raises(FtplugError, match="no finished cell"):
        Winner.read(compared, {})


def test_a_folder_that_went_is_named(compared, tmp_path):
    comparisons.comparison(tmp_path / "gone").write(compared)
    with pytest.raises(FtplugError, match="name a command after --"):
        Winner.read(compared, {}).command(None, module=False, seed=0)


def test_the_script_is_told_the_seed_as_in_the_comparison(compared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = comparisons.comparison(
        tmp_path, command=("train", "--s={seed}"), module=True, seed_arg="--seed {seed}"
    )
    given.write(compared)
    won = Winner.read(compared, {})
    assert won.command(None, module=False, seed=7) == (["train", "--s=7"], True, "--seed {seed}")
    assert won.command(["x.py", "{seed}"], module=False, seed=7) == (
        ["x.py", "{seed}"],
        False,
        None,
    )


def test_without_a_command_there_is_nothing_to_run(typed):
    code, _, err = typed("run", "--method", "lora")
    assert code == 2
    assert "Missing argument" in err


def test_asking_for_the_help_imports_nothing_of_a_comparison():
    assert "ftplug.cli" in sys.modules  # it declares the option alone
    import subprocess

    code = (
        "import sys; sys.argv = ['ftplug', 'run', '--help']\n"
        "from ftplug.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        "assert not [m for m in sys.modules if m.startswith(('ftplug.comparing', 'torch'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
