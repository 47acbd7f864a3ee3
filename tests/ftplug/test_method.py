"""Settings: validated strictly, with one line that names the setting and what is allowed."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from ftplug import LearningRate, Method, MethodError
from ftplug.host import migrated


@dataclass(frozen=True, eq=False)
class Sample(Method):
    """A method for these tests.

    More words.
    """

    r: Annotated[int, Ge(1), "Rank."] = 8
    scale: Annotated[float, "A scale."] = 1.0
    targets: Annotated[tuple[str, ...], "Names."] = ()
    bias: Annotated[Literal["none", "all"], "Which biases."] = "none"
    flag: Annotated[bool, "A switch."] = False
    limit: Annotated[int | None, "Optional."] = None
    where: Annotated[tuple[str, ...] | str | None, "Names or a pattern."] = None
    layers: Annotated[tuple[int, ...] | int | None, "Indices."] = None
    ranks: Annotated[dict[str, Any], "By name."] = field(default_factory=dict)

    name = "sample"
    learning_rate = LearningRate(1e-4, 1e-3, 1e-2)


@pytest.mark.parametrize(
    ("settings", "fragments"),
    [
        ({"r": "8"}, ["'r'", "'8'", "integer", "Rank."]),
        ({"r": 0}, ["'r'", "greater than or equal to 1"]),
        ({"r": True}, ["'r'", "integer"]),
        ({"r": 1.5}, ["'r'", "integer"]),
        ({"scale": "big"}, ["'scale'", "number"]),
        ({"targets": [1]}, ["'targets'", "string"]),
        ({"bias": "some"}, ["'bias'", "'none' or 'all'"]),
        ({"flag": 1}, ["'flag'", "boolean"]),
        ({"limit": "x"}, ["'limit'", "integer"]),
        ({"rr": 1}, ["'rr'", "did you mean 'r'?", "scale, targets, bias"]),
    ],
)
def test_bad_settings_are_one_line(settings, fragments):
    with pytest.raises(MethodError) as caught:
        Sample.configure(settings)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("sample: ")
    for fragment in fragments:
        assert fragment in message


def test_lists_become_tuples_and_defaults_stay():
    method = Sample.configure({"targets": ["query", "value"], "scale": 2})
    assert method.targets == ("query", "value")
    assert method.settings() == {
        "r": 8, "scale": 2.0, "targets": ["query", "value"],
        "bias": "none", "flag": False, "limit": None, "where": None, "layers": None, "ranks": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"r": "4"}, {"r": 4}),
        ({"scale": "1e-3"}, {"scale": 1e-3}),
        ({"targets": "query,value"}, {"targets": ("query", "value")}),
        ({"targets": "[query, value]"}, {"targets": ("query", "value")}),
        ({"flag": "true"}, {"flag": True}),
        ({"limit": "none"}, {"limit": None}),
        ({"limit": "3"}, {"limit": 3}),
        ({"bias": "none"}, {"bias": "none"}),
        ({"where": "query"}, {"where": ("query",)}),
        ({"where": "query, attention.value"}, {"where": ("query", "attention.value")}),
        ({"where": "[query]"}, {"where": ("query",)}),
        ({"where": ".*(query|value)"}, {"where": ".*(query|value)"}),
        ({"where": "all-linear"}, {"where": "all-linear"}),
        ({"where": "none"}, {"where": None}),
        ({"layers": "1"}, {"layers": 1}),
        ({"layers": "1,2"}, {"layers": (1, 2)}),
        ({"ranks": '{"query": 4}'}, {"ranks": {"query": 4}}),
    ],
)
def test_command_line_texts_are_parsed_by_type(texts, expected):
    method = Sample.parse(texts)
    for name, value in expected.items():
        assert getattr(method, name) == value


@pytest.mark.parametrize("texts", [{"r": "four"}, {"r": "0"}, {"bias": "some"}, {"nope": "1"}])
def test_bad_texts_raise(texts):
    with pytest.raises(MethodError, match=next(iter(texts))):
        Sample.parse(texts)


def test_description_comes_from_the_declaration():
    rank = Sample.describe()[0]
    assert (rank.name, rank.type, rank.default, rank.help) == ("r", "int", 8, "Rank.")
    assert [s.type for s in Sample.describe()] == [
        "int", "float", "list of str", "none | all", "bool", "int | None",
        "list of str | str | None", "list of int | int | None", "dict",
    ]  # fmt: skip
    assert Sample.summary() == "A method for these tests."


def test_a_setting_without_default_is_required():
    @dataclass(frozen=True, eq=False)
    class Needy(Method):
        """Needs a path."""

        path: Annotated[str, "Where."]
        name = "needy"

    with pytest.raises(MethodError, match="needy: setting 'path' is required: Where"):
        Needy.configure({})
    assert Needy.configure({"path": "x"}).path == "x"


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        Sample().r = 3


def test_a_migration_that_moves_nothing_ends(monkeypatch):
    from ftplug_plugins.full import Full

    monkeypatch.setattr(Full, "MIGRATIONS", (lambda settings: [("full", settings)],))
    assert migrated([("full", {"a": 1})]) == [("full", {"a": 1})]
