"""The trunk cache in a run's record, on resume, and where another Trainer takes the model over."""

import copy
import json
import logging

import pytest
import tiny
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.trunk import TRUNK
from runs import StopAt, logits, losses, same, trainer, weights
from trunks import batches, padded, sentences, trained_losses, trunk

import ftplug
from ftplug import MethodError, cli
from ftplug.artifacts.manifest import read_manifest
from ftplug.attaching.attachment import attachment_of
from ftplug.inplace import is_wrapped

ALSO = [{"name": "trunk-cache", "settings": {"dtype": None, "bytes": 1000, "on_disk": False}}]
FROZEN = Freeze(layers=1, frozen_eval=True)


def has_trunk(model):
    return any(TRUNK in module.__dict__ for module in model.modules())


def names(model):
    return [method.name for method in attachment_of(model).host.methods]


# The record


def test_it_is_recorded_and_is_no_method_of_the_artifact(tmp_path):
    bound = trainer(tiny.bert(), tmp_path, max_steps=2, save_steps=2)
    ftplug.attach(bound, TrunkCache(bytes=1000), Freeze(layers=1)).train()
    bound.save_model()
    for file in ("ftplug.json", "checkpoint-2/ftplug_state.json"):
        content = json.loads((tmp_path / file).read_text())
        assert [entry["name"] for entry in content["methods"]] == ["freeze"]
        assert content["training"]["also"] == ALSO
    manifest = read_manifest(tmp_path)
    assert manifest.also == ALSO
    assert names(ftplug.load(tiny.bert(), tmp_path)) == ["freeze"]
    assert (
        "| Trained beside | `trunk-cache`, `bytes=1000` |" in (tmp_path / "README.md").read_text()
    )


def test_the_report_names_it(tmp_path, monkeypatch):
    import script

    monkeypatch.setattr(
        "sys.argv",
        ["ftplug", "run", "-M", "freeze", "-M", "trunk-cache", "-s", "freeze.layers=1",
         "-s", "trunk-cache.dtype=bfloat16", "--report", f"{tmp_path}/report.json", "--",
         script.__file__, "--out", f"{tmp_path}/out"],
    )  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    [run] = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert [method["name"] for method in run["methods"]] == ["freeze", "trunk-cache"]
    assert run["methods"][1]["settings"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("also", [None, 3, "x", [3], [{"name": 1, "settings": {}}]])
def test_a_record_that_somebody_else_wrote_is_read_over(tmp_path, also):
    artifact = ftplug.save(ftplug.apply(tiny.bert(), FROZEN), tmp_path, training={"also": also})
    assert read_manifest(artifact).also == []
    assert names(ftplug.load(tiny.bert(), artifact)) == ["freeze"]
    assert "Trained beside" not in (artifact / "README.md").read_text()


def test_a_warning_of_the_learning_rate_names_the_method_it_is_of(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ftplug"):
        ftplug.attach(trainer(tiny.bert(), tmp_path), TrunkCache(), FROZEN, lr=1.0)
    assert "outside the usual range of freeze" in caplog.text


# Resuming


def resumed(make, out, before, after):
    """Train 11 steps with some methods, and to the 20th with others."""
    ftplug.attach(trainer(make(), out, callbacks=[StopAt(11)]), *before).train()
    bound = ftplug.attach(trainer(make(), out), *after)
    bound.train(resume_from_checkpoint=True)
    return bound


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
@pytest.mark.parametrize(("family", "exact"), [("bert", False), ("vit", True), ("t5", True)])
def test_a_run_is_resumed_without_it_or_with_it(tmp_path, caplog, family, exact, before, after):
    def make():
        return tiny.FAMILIES[family](dropout=0.0 if family == "t5" else 0.1)

    def methods(cached):
        return (FROZEN, TrunkCache()) if cached else (FROZEN,)

    straight = ftplug.attach(trainer(make(), tmp_path / "a"), *methods(before))
    straight.train()
    with caplog.at_level(logging.WARNING, "ftplug"):
        other = resumed(make, tmp_path / "b", methods(before), methods(after))
    assert losses(other)[-9:] == pytest.approx(losses(straight)[-9:], abs=1e-5)
    assert not exact or same(weights(other.model), weights(straight.model))
    assert has_trunk(other.model) == after
    was = "trunk-cache(), and are none now" if before else "none, and are trunk-cache() now"
    assert caplog.text.count(f"methods that train nothing were {was}") == 1


def test_nothing_is_said_where_it_is_the_same(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "ftplug"):
        other = (FROZEN, TrunkCache())
        resumed(tiny.bert, tmp_path, other, other[::-1])
    assert "methods that train nothing" not in caplog.text


# Another Trainer


def test_another_trainer_goes_on_with_the_methods_it_names(tmp_path):
    model = tiny.bert()

    def train(*methods):
        bound = ftplug.attach(trainer(model, tmp_path, save_strategy="no"), *methods)
        bound.train()
        return names(model), has_trunk(model)

    assert train(FROZEN) == (["freeze"], False)
    assert train(FROZEN, TrunkCache()) == (["freeze", "trunk-cache"], True)
    first = trunk(model)
    assert (first.hits, first.misses) == (48, 32)
    assert train(TrunkCache(), FROZEN) == (["freeze", "trunk-cache"], True)
    assert (trunk(model).hits, trunk(model).misses) == (80, 0)  # what was stored stays
    assert train(TrunkCache(dtype="bfloat16"), FROZEN)[1]
    assert trunk(model).spec.dtype == "bfloat16"
    assert trunk(model).misses == 32
    assert train(FROZEN) == (["freeze"], False)
    expected = logits(model)
    merged = ftplug.merge(model)
    assert not any(map(is_wrapped, merged.modules()))
    assert logits(merged).equal(expected)


def test_a_loaded_artifact_may_be_trained_on_with_it(tmp_path):
    artifact = ftplug.save(ftplug.apply(tiny.bert(), FROZEN), tmp_path / "artifact")
    plain, caching = (ftplug.load(tiny.bert(), artifact) for _ in range(2))
    data = list(batches(plain))
    ftplug.apply(caching, FROZEN, TrunkCache())
    assert trained_losses(caching, data) == pytest.approx(trained_losses(plain, data), abs=1e-5)
    assert trunk(caching).hits == 24


def test_what_another_trainer_is_refused_leaves_the_cache(tmp_path):
    model = ftplug.apply(tiny.bert(), FROZEN, TrunkCache())
    batch = padded(model, sentences(4))
    model.train()(**batch)
    before, held = attachment_of(model), trunk(model)
    noisy = trainer(model, tmp_path, neftune_noise_alpha=5.0)
    with pytest.raises(MethodError, match="does not combine with neftune_noise_alpha"):
        ftplug.attach(noisy, FROZEN, TrunkCache(dtype="bfloat16"))
    with pytest.raises(MethodError, match="already carries freeze"):
        ftplug.apply(model, Freeze(layers=2), TrunkCache())
    model.bert.config.rope_parameters = {"rope_type": "dynamic"}
    with pytest.raises(MethodError, match="rotary embedding"):
        ftplug.apply(model, FROZEN, TrunkCache(on_disk=True))
    assert attachment_of(model) is before
    model(**batch)
    assert trunk(model) is held
    assert held.hits == 4


def test_a_copy_keeps_its_own_choice():
    model = ftplug.apply(tiny.bert(), FROZEN, TrunkCache())
    twin = copy.deepcopy(model)
    ftplug.apply(twin, FROZEN)
    assert (names(model), has_trunk(model)) == (["freeze", "trunk-cache"], True)
    assert (names(twin), has_trunk(twin)) == (["freeze"], False)
    batch = tiny.inputs(model)
    assert logits(twin, batch).equal(logits(model, batch))
