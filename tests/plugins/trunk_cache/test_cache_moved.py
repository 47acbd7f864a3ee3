"""``cache`` of older versions: typed it works with a warning, recorded it is ``trunk-cache``."""

import json
import logging

import pytest
import tiny
from ftplug_plugins.bottleneck import Bottleneck
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.lora import Lora
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.moved import cache_moved
from ftplug_plugins.trunk_cache.trunk import TRUNK
from runs import StopAt, logits, same, trainer, weights
from trunks import trunk

import ftplug
from ftplug import ArtifactError, MethodError, cli
from ftplug.artifacts.checkpoint import STATE, seal
from ftplug.attaching.attachment import attachment_of
from ftplug.host import Host, from_texts, migrated, resolve

OLD = {"cache": False, "cache_dtype": None, "cache_bytes": None, "cache_on_disk": False}
SETTINGS = {
    "freeze": {"layers": 1},
    "lora": {"r": 4, "layers_to_transform": [1]},
    "bottleneck": {"layers": 1},
}
METHODS = pytest.mark.parametrize("name", sorted(SETTINGS))


def as_recorded(name, **old):
    """Return a method's entry as the older version wrote it, with all settings."""
    method = ftplug.methods()[name].configure(SETTINGS[name])
    [entry] = Host([method]).spec()
    return {**entry, "settings": entry["settings"] | OLD | old}


def made_older(folder, file, **old):
    """Rewrite a manifest or a checkpoint's description to what the older version wrote."""
    content = json.loads((folder / file).read_text())
    [entry] = content["methods"]
    content["methods"] = [as_recorded(entry["name"], **old)]
    content["training"].pop("also", None)
    (folder / file).write_text(json.dumps(content | {"schema": 1}))


@METHODS
@pytest.mark.parametrize("cache", [True, "true", "True", "1", "yes", "on"])
def test_a_cache_is_a_method_of_its_own(name, cache):
    moved = cache_moved(name)
    old = {"cache": cache, "cache_bytes": "1000", "cache_on_disk": True, "other": 3}
    now = [(name, {"other": 3}), ("trunk-cache", {"bytes": "1000", "on_disk": True})]
    assert moved(dict(old)) == migrated([(name, old)]) == now
    assert [moved(dict(settings)) for _, settings in now] == [None, None]


@METHODS
@pytest.mark.parametrize("old", [OLD, {"cache": "no"}, {"cache_dtype": "bfloat16"}])
def test_no_cache_is_nothing(name, old):
    assert migrated([(name, {**old, "other": 3})]) == [(name, {"other": 3})]


def test_what_is_neither_true_nor_false_is_refused():
    for cache in ("maybe", 3, None):
        with pytest.raises(MethodError, match="freeze: setting 'cache' cannot be"):
            migrated([("freeze", {"cache": cache})])


@METHODS
def test_by_name_it_works_with_one_warning(name, caplog):
    with caplog.at_level(logging.WARNING, "ftplug"):
        methods = resolve([name], SETTINGS[name] | {"cache": True, "cache_dtype": "bfloat16"})
    assert [m.name for m in methods] == [name, "trunk-cache"]
    assert methods[1].settings() == {"dtype": "bfloat16", "bytes": None, "on_disk": False}
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{name}: cache=True, cache_dtype=bfloat16 is deprecated")
    assert warning.endswith("+ trunk-cache(dtype=bfloat16)")
    assert trunk(ftplug.apply(tiny.bert(), *methods)).spec.dtype == "bfloat16"


def test_typed_on_a_command_line(caplog):
    with caplog.at_level(logging.WARNING, "ftplug"):
        methods = cli.configured(["freeze", "l2-sp"], ["freeze.cache=true", "freeze.layers=1"])
    assert [m.name for m in methods] == ["freeze", "trunk-cache", "l2-sp"]
    assert methods[0].layers == 1
    assert caplog.text.count("is deprecated") == 1
    assert [m.bytes for m in from_texts(["trunk-cache"], {"bytes": "1000"})] == [1000]
    with pytest.raises(MethodError, match="setting 'bytes' cannot be 'many'"):
        from_texts(["freeze"], {"cache": "on", "cache_bytes": "many"})


@pytest.mark.parametrize("cls", [Freeze, Lora, Bottleneck])
def test_an_instance_names_the_method(cls):
    with pytest.raises(MethodError) as refused:
        cls(cache=True, cache_bytes=5)
    name = cls.name
    assert str(refused.value) == (
        f"{name}: cache=True, cache_bytes=5 moved: it is {name}() + trunk-cache(bytes=5) now"
    )
    with pytest.raises(MethodError, match=f"{name}: no setting named 'cash'"):
        cls(cash=True)


@METHODS
@pytest.mark.parametrize("cache", [True, False])
def test_an_older_artifact_loads(tmp_path, name, cache, caplog):
    methods = [ftplug.methods()[name].configure(SETTINGS[name]), *([TrunkCache()] if cache else [])]
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, max_steps=2, save_strategy="no"), *methods)
    bound.train()
    artifact = ftplug.save(bound.model, tmp_path / "artifact")
    made_older(artifact, "ftplug.json", cache=cache, cache_on_disk=cache)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ftplug"):
        loaded = ftplug.load(tiny.bert(), artifact)
    assert not caplog.records
    ours, theirs = dict(bound.model.named_parameters()), dict(loaded.named_parameters())
    assert same(ours, theirs)
    assert [m.name for m in attachment_of(loaded).host.methods] == [name]
    assert not any(TRUNK in module.__dict__ for module in loaded.modules())
    expected = logits(bound.model)
    assert logits(loaded).allclose(expected, atol=1e-5)
    go_on = ftplug.FTPlugCallback(*methods, start_from=artifact)
    on = trainer(tiny.bert(), tmp_path, max_steps=1, save_strategy="no", callbacks=[go_on])
    assert same(ours, dict(on.model.named_parameters()))


def test_an_artifact_of_nothing_that_trains_is_refused(tmp_path):
    artifact = ftplug.save(ftplug.apply(tiny.bert(), Freeze(layers=1)), tmp_path / "artifact")
    content = json.loads((artifact / "ftplug.json").read_text())
    content["methods"][0] |= {"name": "trunk-cache", "settings": {}}
    (artifact / "ftplug.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="trunk-cache trains nothing"):
        ftplug.load(tiny.bert(), artifact)


@METHODS
@pytest.mark.parametrize("cache", [True, False])
def test_an_older_checkpoint_resumes_to_the_last_bit(tmp_path, name, cache, caplog):
    def methods():
        own = ftplug.methods()[name].configure(SETTINGS[name])
        return [own, *([TrunkCache()] if cache else [])]

    def bound(folder, *callbacks):
        made = trainer(tiny.bert(dropout=0.1), tmp_path / folder, callbacks=[*callbacks])
        return ftplug.attach(made, *methods())

    straight = bound("straight")
    straight.train()
    bound("stopped", StopAt(11)).train()
    checkpoint = tmp_path / "stopped" / "checkpoint-11"
    made_older(checkpoint, STATE, cache=cache)
    seal(checkpoint)
    resumed = bound("stopped")
    with caplog.at_level(logging.WARNING, "ftplug"):
        resumed.train(resume_from_checkpoint=True)
    assert same(weights(resumed.model), weights(straight.model))
    assert "methods that train nothing" not in caplog.text
