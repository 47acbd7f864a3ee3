"""Plugins of strangers: what imports them, and that nothing else hangs on what they do there."""

import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import script

import ftplug
from ftplug import PluginError
from ftplug.artifacts.registries import installed_registry, is_published, registry
from ftplug.entry_points import advertised, the_one

POINTS = {
    "ftplug.methods": "theirs = stranger:Theirs",
    "ftplug.method_families": "kin = stranger",
    "ftplug.commands": "more = stranger:add_commands",
}
# Writes a line at each import, into the folder that holds it.
IMPORTED = """
    import pathlib
    with open(pathlib.Path(__file__).with_name("imported"), "a") as log:
        log.write("once\\n")
    print("hello from a stranger")
"""
AT_IMPORT = {
    "raises": "raise RuntimeError('not today')",
    "exits": "import sys; sys.exit(3)",
    "exits with 0": "raise SystemExit",
    "raises what nobody catches": "class Odd(BaseException): pass\nraise Odd('odd')",
    "is no Python": "this is no Python",
    "lacks what is named": "",
}


def install(folder, points, *, dist="them", module="stranger", code=""):
    """Write a distribution of one module as pip would."""
    (folder / f"{module}.py").write_text(textwrap.dedent(IMPORTED) + textwrap.dedent(code))
    info = folder / f"{dist}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {dist}\nVersion: 1.0\n")
    lines = "\n".join(f"[{group}]\n{point}" for group, point in points.items())
    (info / "entry_points.txt").write_text(lines)
    importlib.invalidate_caches()
    return folder / "imported"


def ftplug_line(folder, *arguments):
    """Return the ended ``ftplug ARGUMENTS`` of an environment that has the folder's packages."""
    support = Path(script.__file__).parent
    path = os.pathsep.join(map(str, (folder, support, *filter(None, [os.getenv("PYTHONPATH")]))))
    command = [sys.executable, "-m", "ftplug", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )


@pytest.mark.parametrize("at_import", AT_IMPORT)
def test_what_a_package_does_at_its_import_breaks_no_list(tmp_path, at_import):
    install(tmp_path, POINTS, code=AT_IMPORT[at_import])
    for arguments, shown in (
        (["methods"], "Train the model's biases"),
        (["methods", "--json"], '"name": "lora"'),
        (["--help"], "Publish an artifact"),
    ):
        ended = ftplug_line(tmp_path, *arguments)
        assert ended.returncode == 0
        assert shown in ended.stdout
        assert "Traceback" not in ended.stderr
        for line in ended.stderr.splitlines():
            assert line.startswith("hello") or ("from them 1.0" in line and "warning" in line), line
        assert "from them 1.0" in ended.stderr
    assert isinstance(json.loads(ftplug_line(tmp_path, "methods", "--json").stdout), list)


@pytest.mark.parametrize(
    ("arguments", "imports"),
    [
        (["--version"], False),
        (["methods", "lora"], False),
        (["methods", "theirs"], True),
        (["methods"], True),
        (["push", "--help"], True),  # a plugin's command, as it happens: any may add it
        (["merge", "--help"], False),
        (["--help"], True),
    ],
)
def test_what_imports_a_package(tmp_path, arguments, imports):
    log = install(tmp_path, POINTS)
    assert "Traceback" not in ftplug_line(tmp_path, *arguments).stderr
    assert log.exists() == imports


def test_a_run_imports_no_plugin_that_it_does_not_use(tmp_path):
    log = install(tmp_path, POINTS, code=AT_IMPORT["exits"])
    out = tmp_path / "out"
    ended = ftplug_line(tmp_path, "run", "--method", "bitfit", "--", script.__file__, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert (out / "ftplug.json").is_file()
    assert not log.exists()


@pytest.fixture
def packages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_second_registry_takes_nothing_over(packages, tmp_path):
    assert installed_registry().__name__ == "ftplug_registry"
    log = install(packages, {"ftplug.registries": "theirs = stranger"})
    for ask in (registry, installed_registry, lambda: ftplug.load("x", "org/name")):
        with pytest.raises(PluginError, match=r"from ftplug .* and .*from them 1\.0.*uninstall"):
            ask()
    assert is_published("org/name")
    assert not log.exists()


def test_a_second_card_takes_nothing_over(packages, tmp_path, caplog):
    import tiny

    log = install(packages, {"ftplug.cards": "theirs = stranger:render"})
    model = ftplug.apply(tiny.bert(), "bitfit")
    saved = ftplug.save(model, tmp_path / "artifact")  # a trained model is not lost over it
    assert "ftplug.cards: provided by" in caplog.text
    assert "from them 1.0" in caplog.text
    assert (saved / "README.md").read_text().startswith("# bitfit on")
    assert not log.exists()


ADDING = """
    def add_commands(app):
        @app.command()
        def run():
            print("not the run of ftplug")

        @app.command()
        def extra():
            "Do something else."
            print("extra was called")
"""


def test_a_plugin_adds_commands_and_replaces_none(tmp_path):
    install(tmp_path, {"ftplug.commands": POINTS["ftplug.commands"]}, code=ADDING)
    assert "extra was called" in ftplug_line(tmp_path, "extra").stdout
    listed = ftplug_line(tmp_path, "--help").stdout
    assert "Do something else." in listed
    assert "Run a Trainer script unmodified" in listed
    assert "Trainer script unmodified" in ftplug_line(tmp_path, "run", "--help").stdout


def test_a_command_that_two_plugins_add_is_an_error(tmp_path):
    install(tmp_path, {"ftplug.commands": "more = stranger:add_commands"}, code=ADDING)
    install(
        tmp_path, {"ftplug.commands": "most = other:add_commands"},
        dist="us", module="other", code=ADDING,
    )  # fmt: skip
    ended = ftplug_line(tmp_path, "extra")
    assert ended.returncode == 1
    [said] = [line for line in ended.stderr.splitlines() if "hello" not in line]
    assert said.startswith("ftplug: extra: a command of 'more' (stranger:add_commands, from them")
    assert said.endswith("from us 1.0): uninstall one of them")
    listed = ftplug_line(tmp_path, "--help")
    assert listed.returncode == 0
    assert "Do something else." not in listed.stdout
    assert "Publish an artifact" in listed.stdout


def test_one_package_that_is_listed_twice_is_one(packages, tmp_path, monkeypatch):
    install(packages, {"ftplug.registries": "theirs = stranger"})
    twice = tmp_path / "twice"
    twice.mkdir()
    install(twice, {"ftplug.registries": "theirs = stranger"})
    monkeypatch.syspath_prepend(str(twice))
    assert [point.distribution for point in advertised("ftplug.registries")] == ["ftplug", "them"]


def test_a_group_that_nobody_offers_has_none():
    assert the_one("ftplug.nothing_of_this_name") is None


UNDESCRIBED = """
    from dataclasses import dataclass
    from typing import TYPE_CHECKING, ClassVar

    from ftplug import Method

    if TYPE_CHECKING:
        from decimal import Decimal

    @dataclass(frozen=True, eq=False)
    class {name}(Method):
        "Says nothing that a list can show."
        name: ClassVar[str] = "theirs"
        {line}
"""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kind: ClassVar[str] = 'other'", "of a kind 'other' that there is not: one of selection"),
        ("share: 'Decimal' = 0", "cannot be described: NameError"),
        ("summary = None", "cannot be described: TypeError"),
        ("hook_api = 99", "written for hook API 99"),
    ],
)
def test_a_method_that_cannot_be_described_is_left_out(tmp_path, line, said):
    code = "from __future__ import annotations\n"
    install(tmp_path, POINTS)
    (tmp_path / "stranger.py").write_text(
        code + textwrap.dedent(UNDESCRIBED.format(name="Theirs", line=line))
    )
    for arguments, code in ((["methods"], 0), (["methods", "theirs"], 1)):
        ended = ftplug_line(tmp_path, *arguments)
        assert ended.returncode == code, ended.stderr
        assert said in ended.stderr
        assert "Traceback" not in ended.stderr
