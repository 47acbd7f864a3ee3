"""Every command, ftplug's own and those of plugins: what all their options have in common."""

import contextlib
import errno
import io

import pytest
import typer.main

from ftplug.cli import app, main
from ftplug.errors import FtplugError

GROUP = typer.main.get_command(app)
with GROUP.make_context("ftplug", ["methods"], resilient_parsing=True) as CONTEXT:
    COMMANDS = {name: GROUP.get_command(CONTEXT, name) for name in GROUP.list_commands(CONTEXT)}
SINGLE = [
    (name, parameter.opts[0])
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.nargs == 1 and not getattr(parameter, "multiple", False)
    if not getattr(parameter, "is_flag", False)
]


def test_there_are_commands_of_both():
    assert {("run", "--report"), ("pull", "--to"), ("keygen", "key")} <= set(SINGLE)
    assert ("run", "--set") not in SINGLE
    assert ("run", "command") not in SINGLE


@pytest.mark.parametrize("text", ["", " "])
@pytest.mark.parametrize(("command", "parameter"), SINGLE)
def test_an_empty_text_is_refused_by_name(command, parameter, text):
    """A script's variable that nobody set: as a path it would be the folder one is in."""
    option = [parameter] if parameter.startswith("-") else []
    named = parameter if option else parameter.upper()
    before = _values_of_arguments_before(command, parameter)
    with pytest.raises(FtplugError, match=f"^{named}: the text is empty"):
        app([command, *option, *before, text], standalone_mode=False)


def _values_of_arguments_before(command, parameter):
    names = [one.opts[0] for one in COMMANDS[command].params if one.param_type_name == "argument"]
    return ["x"] * names.index(parameter) if parameter in names else []


class FullDisk(io.RawIOBase):
    def writable(self):
        return True

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_behind_the_output_is_one_line(monkeypatch, capsys):
    full = io.TextIOWrapper(FullDisk(), write_through=True)
    monkeypatch.setattr("sys.argv", ["ftplug", "methods", "--json"])
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", full)
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said == "ftplug: cannot write: [Errno 28] No space left on device: make room\n"


@pytest.mark.parametrize(("command", "errors"), [("methods", "replace"), ("run", "strict")])
def test_what_a_terminal_cannot_show_is_replaced_but_not_for_a_script(
    monkeypatch, tmp_path, command, errors
):
    """A script must fail or not as it does by itself."""
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr("sys.stdout", written)
    (tmp_path / "script.py").write_text("")
    given = [str(tmp_path / "script.py")] if command == "run" else []
    method = ["--method", "lora", "--dry-run"] if command == "run" else []
    monkeypatch.setattr("sys.argv", ["ftplug", command, *method, *given])
    with contextlib.suppress(SystemExit):
        main()
    assert written.errors == errors
