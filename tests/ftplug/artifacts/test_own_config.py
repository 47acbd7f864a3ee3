"""The config that is written differs from the base's in what the run meant to change alone."""

import json

import pytest
import tiny
from runs import CHECKPOINTING, trainer

import ftplug
from ftplug.artifacts.merged_model import merge_artifact

WAYS = ["attach", "callback", "late"]
FOUND = {"problem_type": "single_label_classification"}  # by the model, of its labels


def config(folder, name="config.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def base(request, tmp_path_factory):
    """Return the class of a model, where it lies, and what transformers writes of its config."""
    folder = tmp_path_factory.mktemp(request.param)
    model = tiny.FAMILIES[request.param]()
    model.save_pretrained(folder / "base")
    type(model).from_pretrained(folder / "base").save_pretrained(folder / "again")
    return type(model), folder / "base", config(folder / "again")


def trained(model, out, method, way):
    """Train two steps with everything that a Trainer or a script sets in a config for its time."""
    model.config.use_cache = False
    more = {CHECKPOINTING: True} if model.supports_gradient_checkpointing else {}
    callbacks = [ftplug.FTPlugCallback(method)] if way == "callback" else None
    bound = trainer(model, out, callbacks=callbacks, max_steps=2, save_steps=2, **more)
    if way == "attach":
        ftplug.attach(bound, method)
    elif way == "late":
        from ftplug.training.binding import bind_at_train

        callback = ftplug.FTPlugCallback(method)
        bound.add_callback(callback)
        bind_at_train(bound, callback)
    bound.train()
    bound.save_model(out / "artifact")
    return bound


def differing(found, expected):
    """Return what differs, but for what the model found out of its labels."""
    names = found.keys() | expected.keys()
    different = {name: found.get(name) for name in names if found.get(name) != expected.get(name)}
    return {name: value for name, value in different.items() if FOUND.get(name) != value}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_what_is_written_has_the_base_s_config(base, tmp_path, method, way):
    cls, folder, expected = base
    model = cls.from_pretrained(folder)
    bound = trained(model, tmp_path, method, way)
    assert bound.model.config.use_cache is False  # the Trainer's, while it may train on

    merge_artifact(tmp_path / "artifact", tmp_path / "merged", base=folder)
    assert differing(config(tmp_path / "merged"), expected) == {}
    if method == "full":
        assert differing(config(tmp_path / "artifact"), expected) == {}
    for name in ("artifact/ftplug.json", "checkpoint-2/ftplug_state.json"):
        described = config(tmp_path, name)["model"]["config"]
        own = expected.get("use_cache")
        assert described.get("use_cache", own) == own
    ftplug.merge(model).save_pretrained(tmp_path / "plain")
    assert differing(config(tmp_path / "plain"), expected) == {}


@pytest.mark.parametrize("own", [True, False])
def test_a_base_that_was_built_from_a_config_keeps_its_own(tmp_path, own):
    model = tiny.llama(use_cache=own)
    callbacks = [ftplug.FTPlugCallback("lora")]
    trainer(model, tmp_path, callbacks=callbacks, max_steps=1).save_model(tmp_path / "a")
    assert config(tmp_path / "a", "ftplug.json")["model"]["config"]["use_cache"] is own
    ftplug.merge(model)
    assert model.config.use_cache is own


def test_a_base_whose_folder_says_no_cache_keeps_that(tmp_path):
    tiny.llama(use_cache=False).save_pretrained(tmp_path / "base")
    model = type(tiny.llama()).from_pretrained(tmp_path / "base")
    bound = trainer(model, tmp_path / "out", max_steps=1, use_cache=True)
    ftplug.attach(bound, "lora").save_model(tmp_path / "a")
    assert config(tmp_path / "a", "ftplug.json")["model"]["config"]["use_cache"] is False


def test_an_artifact_that_has_the_trainer_s_value_merges_with_the_base_s(tmp_path):
    tiny.llama().save_pretrained(tmp_path / "base")
    model = type(tiny.llama()).from_pretrained(tmp_path / "base")
    ftplug.save(ftplug.apply(model, "lora"), tmp_path / "a")
    manifest = tmp_path / "a/ftplug.json"
    content = config(tmp_path / "a", "ftplug.json")
    content["model"]["config"]["use_cache"] = False
    manifest.write_text(json.dumps(content))
    merge_artifact(tmp_path / "a", tmp_path / "merged", base=tmp_path / "base")
    assert config(tmp_path / "merged")["use_cache"] is True
