"""Who shares is asked of parameters: names change under them, and models go without them."""

import gc

import pytest
import tiny
import torch
from runs import logits, same, shake, trainer, weights

import ftplug
from ftplug import MethodError

WEIGHT = "bert.encoder.layer.0.intermediate.dense.weight"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    def saved(method, **settings):
        model = shake(ftplug.apply(tiny.bert(), method, **settings), 0.3)
        return ftplug.save(model, tmp_path_factory.mktemp(method), probe=False)

    return {"lora": saved("lora", r=4), "bitfit": saved("bitfit")}


def pair(artifacts, method="lora"):
    base = tiny.bert()
    return base, ftplug.load(base, artifacts[method], share_base=True)


def stepped(model):
    model(**tiny.inputs(model)).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    return model


@pytest.mark.parametrize("method", ["full", "bitfit", "olora", "bottleneck"])
def test_a_detached_model_takes_any_method_and_writes_to_no_other(method, artifacts, tmp_path):
    """LoRA had renamed what it was put beside: that is shared under its own name again."""
    base, model = pair(artifacts)
    before = weights(base)
    ftplug.detach(model)
    assert same(weights(model), before)
    shake(ftplug.apply(model, method))
    assert same(weights(base), before)
    folder = ftplug.save(model, tmp_path, probe=False)
    assert torch.equal(logits(ftplug.load(base, folder, share_base=True)), logits(model))


def test_a_trainer_of_a_detached_model_takes_the_next_method(artifacts, tmp_path, caplog):
    base, model = pair(artifacts)
    before = weights(base)
    one = trainer(model, tmp_path, max_steps=1, save_strategy="no")
    ftplug.attach(one, "lora", r=4).train()
    for method in ("bitfit", "full"):
        ftplug.attach(ftplug.detach(one), method).train()
        assert same(weights(base), before)
    assert "no longer shared" not in caplog.text


def test_an_artifact_goes_onto_a_detached_model(artifacts, tmp_path):
    base, model = pair(artifacts)
    ftplug.load(ftplug.detach(model), artifacts["bitfit"])
    ftplug.save(model, tmp_path, probe=False)
    assert torch.equal(logits(model), logits(ftplug.load(tiny.bert(), artifacts["bitfit"])))
    assert same(weights(base), weights(tiny.bert()))


def test_a_detached_model_is_a_base_for_others(artifacts):
    base, model = pair(artifacts)
    other = ftplug.load(ftplug.detach(model), artifacts["bitfit"], share_base=True)
    assert torch.equal(logits(other), logits(ftplug.load(tiny.bert(), artifacts["bitfit"])))
    for one in (base, model):
        with pytest.raises(MethodError, match=r"would train the base: .* is shared with"):
            stepped(one)


def test_a_detached_model_whose_base_is_gone_trains_by_itself(artifacts):
    base, model = pair(artifacts)
    ftplug.detach(model)
    with pytest.raises(MethodError, match=r"is shared with its base, a BertForSequence"):
        stepped(model)
    del base
    before = weights(model)
    stepped(model)
    assert not same(weights(model), before)
    ftplug.apply(model, "full")
    stepped(model)


def test_a_base_trains_as_soon_as_nobody_has_the_others(artifacts):
    """What carries a method is freed by the collector alone."""
    gc.disable()
    try:
        base, model = pair(artifacts)
        del model
        stepped(base)
        model = ftplug.load(base, artifacts["lora"], share_base=True, force=True)
        del model
        ftplug.apply(base, "full")
    finally:
        gc.enable()


def test_a_part_that_outlives_its_model_is_not_written_to(artifacts):
    base, model = pair(artifacts)
    encoder = model.bert
    expected = encoder(**{k: v for k, v in tiny.inputs(base).items() if k != "labels"})[0]
    del model
    with pytest.raises(MethodError, match=r"would train the base: .* is shared with"):
        stepped(base)
    with pytest.raises(MethodError, match=r"^full: bert\..* is shared with a model that was"):
        ftplug.apply(base, "full")
    again = encoder(**{k: v for k, v in tiny.inputs(base).items() if k != "labels"})[0]
    assert torch.equal(again, expected)


def test_memory_that_is_given_to_other_processes_is_shared_still(artifacts, tmp_path, caplog):
    base, model = pair(artifacts)
    base.share_memory()
    ftplug.save(model, tmp_path, probe=False)
    assert not caplog.messages
    with pytest.raises(MethodError, match="is shared with a BertFor"):
        ftplug.apply(base, "full")


def test_what_another_model_on_the_base_writes_is_seen(artifacts, tmp_path):
    base, model = pair(artifacts)
    other = ftplug.load(base, artifacts["bitfit"], share_base=True)
    with torch.no_grad():
        other.get_parameter(WEIGHT)[0, 1].add_(1)  # one value, which no sample has
    with pytest.raises(MethodError, match=f"save: {WEIGHT}, which .* was written to since"):
        ftplug.save(model, tmp_path / "artifact", probe=False)
    later = ftplug.load(base, artifacts["lora"], share_base=True, force=True)
    ftplug.save(later, tmp_path / "artifact", probe=False)
    del other
    gc.collect()
    ftplug.save(later, tmp_path / "artifact", probe=False)
