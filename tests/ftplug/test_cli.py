"""The command line: exit codes, one line per failure, JSON where there is data."""

import json

import pytest

import ftplug
from ftplug import __version__, cli, discovery


def call(monkeypatch, capsys, *arguments):
    """Return exit code, stdout and stderr of ``ftplug ARGUMENTS``."""
    monkeypatch.setattr("sys.argv", ["ftplug", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    captured = capsys.readouterr()
    return stopped.value.code or 0, captured.out, captured.err


def test_methods_as_text(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "methods")
    assert code == 0
    for name in ("full", "freeze", "lora", "prefix-tuning", "prompt-tuning", "bottleneck"):
        assert any(line.startswith(f"  {name} ") for line in out.splitlines())
    headings = [line for line in out.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings[0] == "Train some of the model's own parameters:"
    assert out.index("\n  lora ") < out.index("Train different parameters") < out.index("\n  lisa ")
    refused = out.partition("Not usable here")[2]
    listed = [line.split()[0] for line in refused.splitlines() if line.startswith("  ")]
    assert listed == [name for name, cls in ftplug.methods().items() if cls.refused]
    assert {"cpt", "shadow", "xlora"} <= set(listed)


def test_a_refused_method_says_why_and_what_to_use(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "methods", "xlora")
    assert "not usable here: it mixes LoRA adapters that are trained already" in out
    assert "train lora here" in out


def test_help_shows_whole_sentences(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call(monkeypatch, capsys, "--help")
    commands = out.partition("Commands:")[2]
    assert "..." not in commands
    assert "train, evaluate, save, load, predict." in " ".join(commands.split())


def test_methods_as_json(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "methods", "--json")
    rows = json.loads(out)
    assert code == 0
    for row in rows:
        assert {"name", "kind", "summary", "refused", "paper", "distribution", "version"} <= set(
            row
        )
        for setting in row["settings"]:
            assert set(setting) == {"name", "type", "default", "help"}
    code, out, _ = call(monkeypatch, capsys, "methods", "lora", "--json")
    assert json.loads(out) == next(row for row in rows if row["name"] == "lora")


def test_one_method_shows_its_settings(monkeypatch, capsys):
    _, out, _ = call(monkeypatch, capsys, "methods", "freeze")
    assert "--set layers=2  (int)" in out
    assert "suggested: 0.0003" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["methods", "lorra"], "no method named 'lorra'; did you mean 'lora', "),
        (["run", "--", "x.py"], "name a --method"),
        (["run", "--method", "lora", "--", "nothing.py"], "no script at nothing.py"),
        (["run", "--method", "lora", "--set", "r", "--", "x.py"], "--set 'r': write SETTING=VALUE"),
        (["run", "--method", "lora", "--set", "r=x", "--", "x.py"], "'r' cannot be 'x'"),
        (["run", "--method", "lora", "--lr", "fast", "--", "x.py"], "--lr 'fast': write 'sugg"),
        (["run", "--method", "lora", "--lr", "-1", "--", "x.py"], "--lr '-1'"),
        (["run", "--from", "nowhere", "--", "x.py"], "nowhere: no such folder"),
        (["run", "-M", "lora", "-M", "full", "--set", "r=2", "--", "x.py"], "e.g. lora.r"),
    ],
)
def test_stated_failures_exit_1_with_one_line(monkeypatch, capsys, arguments, message):
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("ftplug: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["run"], ["demo", "--epochs", "0"], ["nope"]]
)
def test_wrong_usage_exits_2(monkeypatch, capsys, arguments):
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "Usage: ftplug" in err or "Error" in err


def test_help_teaches(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "run", "--help")
    assert code == 0
    assert "ftplug run --method lora --set r=8 --lr suggested -- train.py" in " ".join(out.split())
    assert "torchrun --nproc_per_node 2 -m ftplug run" in " ".join(out.split())


def test_version(monkeypatch, capsys):
    assert call(monkeypatch, capsys, "--version")[1].strip() == f"ftplug {__version__}"


def test_what_a_family_has_beyond_the_list_is_named_below_it(monkeypatch, capsys):
    monkeypatch.setattr(discovery, "further", lambda known: {"themlib 3.1": ["good", "old"]})
    _, out, _ = call(monkeypatch, capsys, "methods")
    assert "\nthemlib 3.1 has more: good, old (ftplug methods NAME)\n" in out
