"""Freezing: which parameters train, and frozen layers without dropout."""

import pytest
import tiny
import torch
from runs import logits

import ftplug
from ftplug import MethodError


def training(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


HEAD = {"classifier.weight", "classifier.bias"}
POOLER = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_top_layers_pooler_and_head_train(layers):
    model = ftplug.apply(tiny.bert(), "freeze", layers=layers)
    expected = {
        name
        for index in range(tiny.LAYERS - layers, tiny.LAYERS)
        for name, _ in model.named_parameters()
        if f".layer.{index}." in name
    }
    assert training(model) == expected | HEAD | POOLER


def test_patterns_replace_layers_and_pooler():
    model = ftplug.apply(tiny.bert(), "freeze", train=["*.layer.1.output.*", "*query.bias"])
    names = training(model)
    assert {n for n in names if "query.bias" in n} == {
        f"bert.encoder.layer.{i}.attention.self.query.bias" for i in range(2)
    }
    assert names >= HEAD
    assert not POOLER & names
    only = training(ftplug.apply(tiny.bert(), "freeze", train=["*query.bias"], train_head=False))
    assert not HEAD & only


def test_encoder_and_decoder_are_both_cut():
    names = training(ftplug.apply(tiny.t5(), "freeze", layers=1))
    assert {name.split(".block.")[0] for name in names} == {"encoder", "decoder"}
    assert all(".block.1." in name for name in names)


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama, tiny.qwen2, tiny.t5])
def test_a_language_model_without_layers_to_train_is_refused(make):
    with pytest.raises(MethodError, match="freeze: nothing would train"):
        ftplug.apply(make(), "freeze", layers=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 3}, "layers=3, but BertForSequenceClassification has 2"),
        ({"layers": -1}, "greater than or equal to 0"),
        ({"train": ["*.nothing"]}, "no parameter matches train='\\*.nothing'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(MethodError, match=message):
        ftplug.apply(tiny.bert(), "freeze", **settings)


@pytest.mark.parametrize("settings", [{"layers": 0}, {"train": ["*.pooler.*"]}])
def test_the_frozen_part_can_stay_in_eval_mode(settings):
    def prepared(**more):
        model = tiny.bert(dropout=0.5, classifier_dropout=0.0)
        return ftplug.apply(model, "freeze", **settings, **more)

    def in_training(model):
        model.train()
        with torch.no_grad():
            return model(**tiny.inputs(model)).logits

    free, still = prepared(), prepared(frozen_eval=True)
    expected = logits(free)
    assert torch.equal(in_training(still), expected)
    assert not torch.equal(in_training(free), expected)
    assert all(module.training for module in still.modules())  # what the user set stays


def test_what_trains_keeps_its_dropout():
    model = tiny.bert(dropout=0.5, classifier_dropout=0.0)
    ftplug.apply(model, "freeze", layers=1, frozen_eval=True)
    model.train()
    layers, states = model.bert.encoder.layer, torch.ones(1, 3, tiny.HIDDEN)
    assert torch.equal(layers[0](states), layers[0](states))
    assert not torch.equal(layers[1](states), layers[1](states))


def test_suggested_rates_follow_the_settings():
    from ftplug_plugins.freeze import Freeze

    assert Freeze(layers=0).suggested_learning_rate().suggested == 1e-3
    assert Freeze(layers=2).suggested_learning_rate().suggested == 3e-4


def test_a_merged_model_has_its_dropout_again():
    from ftplug.inplace import is_wrapped

    model = ftplug.apply(tiny.bert(dropout=0.5), "freeze", layers=1, frozen_eval=True)
    assert any(map(is_wrapped, model.modules()))
    merged = ftplug.merge(model)
    assert not any(map(is_wrapped, merged.modules()))
    ftplug.apply(merged, "lora")
