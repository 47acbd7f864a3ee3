"""Names that nobody has, wherever one is asked for: the nearest there are, or ours."""

import pytest
import tiny

import ftplug
from ftplug import MethodError, PluginError, cli, discovery
from ftplug.host import from_texts, resolve
from ftplug.nearest import _CONCEPTS


def refused(ask, kind=MethodError):
    with pytest.raises(kind) as said:
        ask()
    text = str(said.value)
    assert "\n" not in text
    assert len(text) < 250, text
    return text


@pytest.mark.parametrize(
    "ask",
    [
        lambda name: ftplug.apply(tiny.bert(), name),
        lambda name: ftplug.FTPlugCallback(name),
        lambda name: resolve(["bitfit", name], {}),
        lambda name: from_texts([name, "l2-sp"], {}),
        lambda name: cli.configured([name], ["r=8"]),
        discovery.entry,
    ],
)
@pytest.mark.parametrize(
    ("name", "near"), [("lorra", "lora"), ("LoRA", "lora"), ("prefix_tuning", "prefix-tuning")]
)
def test_a_method_is_answered_with_the_nearest_three(ask, name, near):
    text = refused(lambda: ask(name), PluginError)
    assert f"no method named {name!r}; did you mean {near!r}" in text
    names = [known for known in discovery.entries() if repr(known) in text]
    assert near in names
    assert len(names) <= 3
    assert "ftplug methods lists the" in text


def test_a_name_like_none_says_where_they_are_listed():
    text = refused(lambda: discovery.entry("zzzzzz"), PluginError)
    assert text.startswith("no method named 'zzzzzz': ftplug methods lists the ")


def test_a_composition_in_one_name_is_taken_apart():
    text = refused(lambda: ftplug.apply(tiny.bert(), "lora+bitfit"), PluginError)
    assert "one by one, 'lora', 'bitfit' (or --method lora --method bitfit)" in text


OURS = [
    ("lora", "rank", "r"),
    ("lora", "lora_r", "r"),
    ("lora", "alpha", "lora_alpha"),
    ("lora", "dropout", "lora_dropout"),
    ("lora", "modules", "target_modules"),
    ("lora", "target_layers", "target_modules"),
    ("qlora", "rank", "r"),
    ("boft", "dropout", "boft_dropout"),
    ("reft", "rank", "low_rank_dimension"),
    ("galore", "r", "rank"),
    ("freeze", "num_layers", "layers"),
    ("prompt-tuning", "prompt_length", "num_virtual_tokens"),
    ("bottleneck", "activation", "non_linearity"),
]


@pytest.mark.parametrize(("method", "theirs", "ours"), OURS)
def test_another_library_s_name_is_answered_with_ours(method, theirs, ours):
    cls = discovery.entry(method).load()
    for ask in (
        lambda: ftplug.apply(tiny.bert(), method, **{theirs: 8}),
        lambda: cli.configured([method], [f"{theirs}=8"]),
        lambda: cls(**{theirs: 8}),
    ):
        assert f"{method}: no setting named {theirs!r}: here it is {ours!r}" in refused(ask)
    assert ours in {setting.name for setting in cls.describe()}


def test_a_method_without_the_concept_claims_none():
    assert "here it is" not in refused(lambda: ftplug.apply(tiny.bert(), "bitfit", rank=8))
    assert "here it is" not in refused(lambda: ftplug.apply(tiny.bert(), "lora", prompt_length=8))
    text = refused(lambda: ftplug.apply(tiny.bert(), "lora", modules_to_save=["classifier"]))
    assert "the task head trains with every method" in text


def test_a_misspelt_setting_is_answered_with_the_nearest():
    text = refused(lambda: ftplug.apply(tiny.bert(), "lora", lora_alfa=8))
    assert "did you mean 'lora_alpha'" in text
    assert "ftplug methods lora lists its settings" in text
    few = refused(lambda: ftplug.apply(tiny.bert(), "freeze", layer=1))
    assert "(its settings are layers, train, frozen_eval)" in few


def test_a_setting_of_several_methods_names_who_has_it():
    text = refused(lambda: ftplug.apply(tiny.bert(), "bitfit", "lora", r=8))
    assert "e.g. lora.r" in text
    text = refused(lambda: ftplug.apply(tiny.bert(), "bitfit", "lora", **{"lorra.r": 8}))
    assert "e.g. lora.r" in text


def test_each_concept_is_a_setting_of_some_method():
    """A name of the table that no method has would never be answered with."""
    known = {s.name for cls in ftplug.methods().values() for s in cls.describe()}
    assert [names for names in _CONCEPTS if not known & set(names)] == []
