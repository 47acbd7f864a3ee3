"""What --try names: methods with settings, written as on a command line."""

import copy

import pytest
import tiny

import ftplug
from ftplug.comparing import candidates
from ftplug.comparing.candidates import (
    default_candidates,
    low_suggested_high,
    parse,
    searched_rates,
    with_baseline,
)
from ftplug.errors import FtplugError


def spec(text):
    return [(method.name, method.settings()) for method in parse(text).methods]


@pytest.mark.parametrize(
    ("text", "names", "settings"),
    [
        ("lora", ["lora"], {}),
        ("  lora r=4  ", ["lora"], {"r": 4}),
        ("lora+bitfit lora.r=4", ["lora", "bitfit"], {"r": 4}),
        ("lora target_modules=query,value", ["lora"], {"target_modules": ["query", "value"]}),
        ("freeze 'train=*.attention.*,* pooler*'", ["freeze"], {}),
    ],
)
def test_a_text_names_methods_with_settings(text, names, settings):
    found = parse(text)
    assert found.text == text.strip()
    assert [method.name for method in found.methods] == names
    own = found.methods[0].settings()
    assert {name: own[name] for name in settings} == settings


def test_a_quoted_setting_keeps_its_spaces():
    [(_, settings)] = spec("freeze 'train=a b'")
    assert settings["train"] == ["a b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name a method with its settings"),
        ("loras", "did you mean 'lora'"),
        ("lora rank=8", "here it is 'r'"),
        ("lora r", "is no SETTING=VALUE"),
        ("lora r=8 r=4", "'r' is set twice"),
        ("lora r=eight", "r"),
        ("lora 'r=8", "no closing quotation"),
        ("lora+bitfit r=4", "write METHOD.SETTING, e.g. lora.r"),
        ("lora+lora", "is given twice"),
        ("lora bitfit", "methods join by +"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_names_the_text(text, said):
    with pytest.raises(FtplugError) as refused:
        parse(text)
    assert str(refused.value).startswith(f"--try {text!r}: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_same_candidate_twice_is_refused_however_it_is_written():
    with pytest.raises(FtplugError, match=r"'lora r=8 lora_alpha=16' is the same .* 'lora'"):
        candidates.candidates(["lora", "bitfit", "lora r=8 lora_alpha=16"])


def test_the_baseline_is_the_first_unless_given():
    assert with_baseline(["bitfit", "lora"], None) == (("bitfit", "lora"), "bitfit")
    assert with_baseline(["bitfit", "lora"], "lora r=8") == (("bitfit", "lora"), "lora")


def test_a_baseline_that_is_no_candidate_becomes_one():
    assert with_baseline(["lora"], "full") == (("full", "lora"), "full")


@pytest.mark.parametrize("text", ["lora", "freeze layers=0", "lora-plus+bitfit"])
def test_the_rates_are_those_that_suggested_takes(text):
    """As ftplug.training.learning_rate decides it: the first method that suggests any."""
    methods = parse(text).methods
    known = [rates for method in methods if (rates := method.suggested_learning_rate())]
    assert low_suggested_high(methods) == known[0]
    assert known[0].low < known[0].suggested < known[0].high


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("lora", (1e-3, 1e-4, 1e-2)),  # its own
        ("hra", (1e-3, 1e-4, 1e-2)),
        ("lora-plus", (5e-5, 5e-6, 5e-4)),
        ("l2-sp", (5e-5, 5e-6, 5e-4)),
    ],
)
def test_what_suggests_no_rate_is_searched_too(text, rates):
    methods = parse(text).methods
    assert (low_suggested_high(methods) is None) == (text != "lora")
    assert searched_rates(methods) == pytest.approx(rates)


@pytest.mark.parametrize(
    ("model", "name"),
    [("bert", "BertForSequenceClassification"), ("llama", "LlamaForCausalLM")],
)
def test_the_default_eight_fit(model, name):
    texts = default_candidates(name)
    found = candidates.candidates(texts)  # none twice
    assert len(found) == 8
    base = getattr(tiny, model)()
    assert type(base).__name__ == name
    for candidate in found:
        assert low_suggested_high(candidate.methods)
        carrier = ftplug.apply(copy.deepcopy(base), candidate.methods)
        assert any(parameter.requires_grad for parameter in carrier.parameters())
