"""``ftplug compare``: what it refuses, what it prints, how it ends."""

import io
import json
import sys
from pathlib import Path

import fake_cells
import pytest

from ftplug import cli
from ftplug.comparing import command, whole
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.finishing import note_left_out
from ftplug.comparing.results import Cell, read_results
from ftplug.comparing.summary import Judged, Summary
from ftplug.errors import FtplugError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with a script; cells train nothing, and what follows from them is stood in for."""
    modules = {}
    fake_cells.stand_in(modules)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('never run')\n")
    return tmp_path


@pytest.fixture
def fake(monkeypatch):
    """Let cells be what a test says."""

    def be(run):
        own = whole.run_comparison

        def run_comparison(*arguments, **options):
            return own(*arguments, run=run, **options)

        monkeypatch.setattr(command, "run_comparison", run_comparison)

    be(fake_cells.sleep)
    return be


def ftplug(monkeypatch, *arguments):
    """Run a command; return its exit code."""
    monkeypatch.setattr("sys.argv", ["ftplug", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def compare(monkeypatch, *arguments):
    return ftplug(monkeypatch, "compare", *arguments, "--", "train.py")


TWO = ("--try", "lora r=4", "--try", "bitfit")


def test_what_it_was_asked_for_is_what_runs(here, fake, monkeypatch, capsys):
    code = compare(
        monkeypatch, *TWO, "--lr", "1e-4,1e-3", "--seeds", "2", "--baseline", "full",
        "--metric", "f1", "--delta", "0.02", "--seed-arg", "--seed {seed}", "--out", "out",
    )  # fmt: skip
    assert code == 0
    asked = Comparison.read(here / "out")
    assert len(asked.key) == 64
    assert asked == Comparison(
        command=("train.py",),
        module=False,
        folder=str(here),
        candidates=("full", "lora r=4", "bitfit"),
        baseline="full",
        key=asked.key,
        rates=(1e-4, 1e-3),
        seeds=2,
        metric="f1",
        delta=0.02,
        seed_arg="--seed {seed}",
    )
    results = read_results(here / "out" / "results.jsonl")
    assert len({result.cell for result in results}) == len(results) == 3 * 2 * 2
    printed = capsys.readouterr()
    assert "12 results" in printed.out
    assert "report: out/report.html" in printed.out
    assert "winner: out/best" in printed.out
    assert "1. full lr 0.0001 seed 0: finished, accuracy 0." in printed.err


def test_it_goes_on_where_it_was(here, fake, monkeypatch, capsys):
    compare(monkeypatch, *TWO, "--lr", "suggested", "--seeds", "1")
    before = (here / fake_cells.STARTED).read_text().split()
    assert len(before) == 2
    assert compare(monkeypatch, *TWO, "--lr", "suggested", "--seeds", "2") == 0
    assert "2 cells had ended before" in capsys.readouterr().err
    assert len((here / fake_cells.STARTED).read_text().split()) == 4
    assert compare(monkeypatch, *TWO, "--lr", "1e-3", "--seeds", "2") == 1
    assert "its --lr was suggested, now it is 0.001" in capsys.readouterr().err


def test_with_json_the_summary_alone_is_printed(here, fake, monkeypatch, capsys):
    assert compare(monkeypatch, *TWO, "--lr", "suggested", "--seeds", "1", "--json") == 0
    printed = capsys.readouterr().out
    assert printed == (here / "ftplug-compare" / "summary.json").read_text()
    assert [row["candidate"] for row in json.loads(printed)["candidates"]] == ["lora r=4", "bitfit"]


@pytest.mark.parametrize(("names", "code"), [(("bitfit", "lora"), 0), (("bitfit", "freeze"), 1)])
def test_it_fails_where_none_has_finished(here, fake, monkeypatch, capsys, names, code):
    fake(fake_cells.fail_in_some_way)
    tries = [word for name in names for word in ("--try", name)]
    assert compare(monkeypatch, *tries, "--lr", "1e-3", "--seeds", "1", "--delta", "0.5") == code
    printed = capsys.readouterr()
    assert "bitfit lr 0.001 seed 0: failed" in printed.err
    assert "SIGSEGV" in printed.err
    assert ("winner:" in printed.out) is False  # this fake leaves no artifact
    assert (here / "ftplug-compare" / "report.html").is_file()


def test_the_winners_artifact_is_of_its_first_seed(here, fake, monkeypatch):
    compare(monkeypatch, *TWO, "--lr", "1e-4,1e-3", "--seeds", "2")
    out = here / "ftplug-compare"
    best = json.loads((out / "summary.json").read_text())
    rate = next(row["lr"] for row in best["candidates"] if row["candidate"] == best["best"])
    written = (out / "best" / "ftplug.json").read_text()
    assert written == Cell(best["best"], rate, 0).id
    assert len(list(out.glob("cells/*/artifact"))) == 2  # one of each candidate
    assert list(out.glob("cells/*/output")) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name candidates: --try"),
        (("--try", ""), "name a method with its settings"),
        (("--try", "loras"), "did you mean 'lora'"),
        (("--try", "lora", "--baseline", "fulll"), "did you mean 'full'"),
        ((*TWO, "--seeds", "0"), "--seeds 0: write a whole number of at least 1"),
        ((*TWO, "--jobs", "0"), "--jobs 0"),
        ((*TWO, "--delta", "0"), "--delta 0: write a positive number"),
        ((*TWO, "--delta", "nan"), "--delta nan: write a positive number"),
        ((*TWO, "--budget-minutes", "-1"), "--budget-minutes -1"),
        ((*TWO, "--lr", "quick"), "--lr 'quick'"),
        ((*TWO, "--lr", "1e-3,-1"), "--lr '-1'"),
        ((*TWO, "--lr", "1e-3,suggested"), "--lr '1e-3,suggested'"),
        ((*TWO, "--lr", "1e-3,0.001"), "stands there twice"),
        ((*TWO, "--seed-arg", "--seed"), "write where the seed goes"),
        ((*TWO, "--seed-arg", "'{seed}"), "no closing quotation: quote it as in a shell"),
        (("--try", "lora", "--baseline", "fulll"), "--baseline 'fulll': "),
        ((*TWO, "--retain", "none.txt"), "--retain none.txt: no such file"),
        ((*TWO, "--engine", "cloud"), "write 'process' or 'slurm'"),
        ((*TWO, "--out", "train.py"), "train.py: a file"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(here, monkeypatch, capsys, arguments, said):
    assert compare(monkeypatch, *arguments) == 1
    printed = capsys.readouterr()
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""
    assert sorted(path.name for path in here.iterdir()) == ["train.py"]  # nothing was begun


@pytest.mark.parametrize(
    ("content", "said"),
    [(b" \n\t", "there is no text in it"), (b"\xff\xfe\x00", "no text can be read")],
)
def test_a_text_to_retain_is_read_before_anything_runs(here, monkeypatch, capsys, content, said):
    (here / "retain.txt").write_bytes(content)
    assert compare(monkeypatch, *TWO, "--retain", "retain.txt") == 1
    assert f"--retain retain.txt: {said}" in capsys.readouterr().err
    assert not (here / "ftplug-compare").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--", "no.py"), "no script at no.py"),
        (("-m", "--", "no_such_module"), "no module named no_such_module"),
        (("-m",), "name a module"),
    ],
)
def test_a_script_that_is_not_there_is_refused(monkeypatch, capsys, arguments, said):
    assert ftplug(monkeypatch, "compare", *TWO, *arguments) == 1
    assert said in capsys.readouterr().err


def test_under_a_launcher_it_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert compare(monkeypatch, *TWO) == 1
    assert "without a launcher" in capsys.readouterr().err


def test_the_command_that_publishes_can_be_pasted(fake, monkeypatch, capsys):
    assert compare(monkeypatch, *TWO, "--lr", "1e-3", "--seeds", "1", "--out", "o ut") == 0
    assert "(ftplug push 'o ut/best' REPO_ID publishes it)" in capsys.readouterr().out


def test_a_terminal_without_a_minus_sign_gets_the_table(fake, monkeypatch):
    """As LC_ALL and old consoles have it: what has been measured is shown all the same."""
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="latin-1"))
    minus = ["\N{MINUS SIGN}0.1"]
    monkeypatch.setattr(sys.modules["ftplug.comparing.report.table"], "notes", lambda _: minus)
    assert compare(monkeypatch, *TWO, "--lr", "1e-3", "--seeds", "1") == 0
    assert b"?0.1\nreport: " in written.getvalue()


def test_a_launchers_variable_that_says_nothing_is_none(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "")
    command._check(3, 0.01, None, 1, None)


def test_without_a_script_it_is_the_demo():
    assert command._script([], False) == (("ftplug.demo.script",), True)
    assert command._script(["--limit", "9"], False) == (
        ("ftplug.demo.script", "--limit", "9"),
        True,
    )


def test_the_default_of_the_demo_needs_no_look():
    texts, baseline = command._compared(["default"], None, [command.DEMO], True)
    assert len(texts) == 8
    assert baseline == texts[0]


@pytest.mark.slow
def test_the_default_of_a_script_is_of_its_model(here, monkeypatch):
    monkeypatch.syspath_prepend(here)  # as the command's first place: the script's stands there
    Path("tiny_script.py").write_text(
        "import sys, tiny, runs\n"
        "base = getattr(tiny, sys.argv[1])()\n"
        "trainer = runs.trainer(base, 'out')\n"
        "open('trained', 'w').close()\n"
    )
    for name, last in (("bert", "bitfit"), ("llama", "layernorm")):
        texts, _ = command._compared(["default"], None, ("tiny_script.py", name), False)
        assert texts[-1] == last
    assert not Path("trained").exists()


def test_a_script_that_shows_no_model_is_refused_with_what_it_said():
    with pytest.raises(FtplugError, match="shows no model: never run"):
        command._compared(["default"], None, ("train.py",), False)


def test_rows_say_what_has_not_run():
    rows = [Judged("lora", 1e-3, "baseline"), Judged("bitfit", None, "not_decided")]
    summary = Summary("accuracy", True, "evaluation", "lora", 0.01, rows)
    left = [Cell("bitfit", 3e-3, 2), Cell("bitfit", 3e-3, 1), Cell("bitfit", 1e-4, 0)]
    note_left_out(summary, left, 4)
    assert not summary.complete
    assert summary.notes == ["3 cells have not run: the budget of 4 minutes"]
    assert rows[0].notes == []
    seeds, rates = rows[1].notes
    assert seeds.startswith("not run: seeds 1, 2: the budget of 4 minutes went to candidates")
    assert rates == "not run: learning rates 0.0001: rates take half of the budget of 4 minutes"
    note_left_out(whole := Summary("accuracy", True, "evaluation", "lora", 0.01, []), [], None)
    assert whole.complete
