"""Patterns in settings: an artifact has the names that they mean, and loading runs no pattern."""

import copy
import json
import re
import warnings

import pytest
import tiny
import torch
from contracts import CONTRACTS
from ftplug_plugins.peft_bridge import files as peft_files
from ftplug_plugins.peft_family import family
from runs import logits, same, shake, weights

import ftplug
from ftplug import ArtifactError
from ftplug.artifacts.checkpoint import read_checkpoint, write_checkpoint
from ftplug.artifacts.strangers import patterns
from ftplug.attaching.attachment import require_attachment

SETTINGS = {
    "adamss": {"r": 8, "num_subspaces": 2},
    "gralora": {"r": 4},
    "hira": {"r": 4},
    "oft": {"oft_block_size": 8},
    "peanut": {"r": 4},
    "pvera": {"r": 8},
    "randlora": {"r": 4},
    "supertuning": {"sparsity": 0.9},
    "vera": {"r": 8},
}
# Of each setting with patterns a value that the tiny layers allow.
VALUES = {
    "rank_pattern": 2,
    "alpha_pattern": 4,
    "lambda_pattern": 5.0,
    "n_frequency_pattern": 10,
    "block_size_pattern": 4,
}
OURS = ("lora", "pissa", "olora")


def fields(name):
    from ftplug import discovery

    return {field.name for field in discovery.entry(name).load().describe()}


NAMES = [
    name
    for name, entry in family.types().items()
    if "target_modules" in entry["settings"] and name not in ("adaption-prompt", "lily", "shadow")
]


def settings(name):
    given = CONTRACTS.get(name, {}).get("settings", {}) | SETTINGS.get(name, {})
    return {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}


def ends(base, name):
    """Return the last two parts of what a method adapts by default."""
    model = ftplug.apply(copy.deepcopy(base), name, **settings(name))
    paths = [path for path, _ in peft_files.tuner_layers(model)]
    return sorted({".".join(path.split(".")[-2:]) for path in paths})


def by_expression(base, name):
    known, found = fields(name), ends(base, name)
    pattern = rf".*\.({'|'.join(found)})"
    given = settings(name) | {"target_modules": [pattern] if name in OURS else pattern}
    if "feedforward_modules" in known:
        given["feedforward_modules"] = rf".*\.[o]utput\.dense|.*\.({found[0]})"
    for setting in known & VALUES.keys():
        given[setting] = {rf".*(1|7)\..*{found[0].split('.')[-1]}": VALUES[setting]}
    return given


def by_layer(base, name):
    """The ends of names, in layers of a list whose name is a pattern, without what is excluded."""
    known = fields(name)
    if "layers_pattern" not in known:
        pytest.skip("it has no layers_pattern")
    given = settings(name) | {
        "target_modules": ends(base, name),
        "layers_to_transform": [1],
        "layers_pattern": "lay.r",
    }
    if "exclude_modules" in known:
        pattern = r".*\.layer\.1\.(inter|out).*"
        given["exclude_modules"] = [pattern] if name in OURS else pattern
    return given


@pytest.fixture
def base():
    return tiny.bert()


@pytest.fixture
def matched(monkeypatch):
    """Return a list of the regular expressions that are used; none is tried in a process."""
    used, compiled = [], re._compile

    def watching(pattern, flags):
        used.append(str(pattern))
        return compiled(pattern, flags)

    monkeypatch.setattr(re, "_compile", watching)
    monkeypatch.setattr(patterns, "_finishes", lambda asked: pytest.fail(str(asked["patterns"])))
    return used


def texts(given):
    for name, value in given.items():
        if name.endswith(("_modules", "_pattern")):
            for text in [value] if isinstance(value, str) else value:
                if patterns._SPECIAL.search(text) or name == "layers_pattern":
                    yield text


def saved(base, name, given, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, of what it did not find for a pattern
        model = shake(ftplug.apply(copy.deepcopy(base), name, **given))
    ftplug.save(model, folder)
    return model, json.loads((folder / "ftplug.json").read_text())


@pytest.mark.parametrize("kind", [by_expression, by_layer])
@pytest.mark.parametrize("name", [*OURS, *NAMES])
def test_loading_uses_the_names_that_a_pattern_meant(base, tmp_path, name, kind, matched):
    given = kind(base, name)
    model, manifest = saved(base, name, given, tmp_path / "a")
    [entry] = manifest["methods"]
    expected = logits(model)
    assert {key: entry["settings"][key] for key in given} == given
    modules = dict(base.named_modules())
    assert entry["resolved"]["target_modules"]
    assert set(entry["resolved"]["target_modules"]) <= modules.keys()
    config = tmp_path / "a" / "adapter_config.json"
    written = json.dumps(json.loads(config.read_text())) if config.exists() else ""
    assert not any(json.dumps(text) in written for text in texts(given) if text != "lay.r")
    del matched[:]
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "a")
    assert not [used for used in matched for text in texts(given) if text in used]
    assert torch.equal(logits(loaded), expected)
    again = json.loads((ftplug.save(loaded, tmp_path / "b") / "ftplug.json").read_text())
    assert again["methods"] == manifest["methods"]
    if written:
        assert (tmp_path / "b" / "adapter_config.json").read_text() == config.read_text()


@pytest.mark.parametrize("name", [*OURS, *NAMES])
def test_one_layer_may_be_a_number(base, tmp_path, name):
    """peft takes ``layers_to_transform=1`` as well as ``[1]``."""
    one, several = by_layer(base, name) | {"layers_to_transform": 1}, by_layer(base, name)
    _, manifest = saved(base, name, one, tmp_path / "one")
    _, listed = saved(base, name, several, tmp_path / "several")
    assert manifest["methods"][0]["resolved"] == listed["methods"][0]["resolved"]
    assert manifest["methods"][0]["settings"]["layers_to_transform"] == 1


@pytest.mark.parametrize("name", ["lora", "loha", "vera", "hra", "ia3", "pissa"])
def test_plain_peft_loads_the_same_adapter(base, tmp_path, name):
    import peft

    model, _ = saved(base, name, by_expression(base, name), tmp_path / "a")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "a").eval()
    assert torch.allclose(logits(loaded), logits(model), atol=1e-6)


def test_a_checkpoint_has_the_names_and_resumes_by_the_settings(base, tmp_path, matched):
    given = by_expression(base, "lora")
    model = shake(ftplug.apply(copy.deepcopy(base), "lora", **given))
    write_checkpoint(model, tmp_path)
    del matched[:]
    loaded = ftplug.load(copy.deepcopy(base), tmp_path)
    assert not [used for used in matched for text in texts(given) if text in used]
    assert torch.equal(logits(loaded), logits(model.eval()))
    resumed = ftplug.apply(copy.deepcopy(base), "lora", **given)
    read_checkpoint(resumed, tmp_path)
    assert torch.equal(logits(resumed.eval()), logits(model))
    assert require_attachment(loaded).host.spec() == require_attachment(resumed).host.spec()


def test_settings_without_patterns_have_no_names_beside_them(base, tmp_path):
    _, manifest = saved(base, "lora", {"r": 4, "rank_pattern": {"query": 2}}, tmp_path / "a")
    assert "resolved" not in manifest["methods"][0]


def test_an_artifact_without_the_names_loads_by_its_pattern(base, tmp_path):
    model, manifest = saved(base, "lora", by_expression(base, "lora"), tmp_path / "a")
    del manifest["methods"][0]["resolved"]
    (tmp_path / "a" / "ftplug.json").write_text(json.dumps(manifest))
    assert torch.equal(logits(ftplug.load(base, tmp_path / "a")), logits(model))


@pytest.mark.parametrize("name", ["lily"])
def test_what_is_shared_by_the_entry_stays_by_the_pattern(base, tmp_path, name):
    model, manifest = saved(base, name, by_expression(base, name), tmp_path / "a")
    assert "resolved" not in manifest["methods"][0]
    assert torch.equal(logits(ftplug.load(base, tmp_path / "a")), logits(model))


QUERY = "bert.encoder.layer.{}.attention.self.query"
LIES = {
    "a name that the model lacks": ({"target_modules": ["bert.nothing"]}, "'bert.nothing' is in"),
    "a pattern": ({"target_modules": [".*query"]}, r"'\.\*query' is in its list of names"),
    "fewer": (
        {"target_modules": [QUERY.format(0)], "rank_pattern": {}, "alpha_pattern": {}},
        "belongs to nothing in this model",
    ),
    "other ranks": (
        {"rank_pattern": {QUERY.format(0): 2, QUERY.format(1): 2}},
        r"tensor .* is \(4, 32\), the model needs \(2, 32\)",
    ),
    "ranks of its own": ({"rank_pattern": {QUERY.format(1): 3}}, "do not fit it"),
    "another setting": ({"r": 2}, "'r' is not resolved to names"),
    "an unknown setting": ({"x": []}, "'x' is not resolved to names"),
    "a text": ({"target_modules": ".*"}, "do not fit it"),
    "numbers": ({"target_modules": [1]}, "do not fit it"),
}


@pytest.mark.parametrize("lie", LIES)
def test_names_that_lie_are_refused(base, tmp_path, lie):
    given, message = LIES[lie]
    _, manifest = saved(base, "lora", by_expression(base, "lora") | {"r": 4}, tmp_path / "a")
    manifest["methods"][0]["resolved"] |= given
    (tmp_path / "a" / "ftplug.json").write_text(json.dumps(manifest))
    before = weights(base)
    with pytest.raises(ArtifactError, match=message) as caught:
        ftplug.load(base, tmp_path / "a")
    assert "\n" not in str(caught.value)
    assert same(weights(base), before)
    assert not hasattr(base, "_ftplug")
