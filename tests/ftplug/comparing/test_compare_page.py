"""docs/compare.md says what there is: options, files' keys, statuses and verdicts."""

import dataclasses
import re
import typing

import pytest
import typer
from documents import DOCS

from ftplug.comparing import command, results, summary
from ftplug.comparing.scheduling.budget import RATES_SHARE

PAGE = next(page for page in DOCS if page.path.name == "compare.md")


def table_after(words):
    """Return the code words in the first column of the table that follows some words."""
    rows = PAGE.prose.partition(words)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    return [name for row in rows.splitlines() for name in re.findall(r"`(.+?)`", row.split("|")[1])]


@pytest.mark.parametrize(
    ("words", "cls"),
    [
        ("A line of `results.jsonl`", results.Result),
        ("`summary.json`:", summary.Summary),
        ("A row of `candidates`:", summary.Judged),
    ],
)
def test_each_key_is_explained_once(words, cls):
    assert sorted(table_after(words)) == sorted(field.name for field in dataclasses.fields(cls))


def test_statuses_and_verdicts_are_those_that_there_are():
    for kind, key in ((results.Status, "| `status`"), (summary.Verdict, "| `verdict`")):
        row = next(row for row in PAGE.prose.splitlines() if row.startswith(key))
        named = re.findall(r"`(\w+)`", row.split("|")[2])
        assert named == list(typing.get_args(kind))


def test_each_option_is_explained():
    app = typer.Typer()
    command.add_commands(app)
    options = {
        name
        for parameter in typer.main.get_command(app).params
        if parameter.param_type_name == "option" and parameter.name not in ("help",)
        for name in (*parameter.opts, *parameter.secondary_opts)
        if not name.endswith("completion")
    }
    said = {name.split()[0] for name in table_after("Trainer, once.")}
    assert options == {name for name in said if name.startswith("-")}


def test_what_is_said_of_a_budget_is_so():
    assert RATES_SHARE == 0.5
    assert "rates take half of it at most" in PAGE.prose
