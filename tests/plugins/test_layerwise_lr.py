"""Layer-wise learning rates: each tensor's rate and weight decay, and the loop they amount to."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.layerwise_lr import LayerwiseLr
from halves import straight_and_resumed
from runs import by_hand, losses, same, trainer, weights

import ftplug
from ftplug import MethodError

RATE = 1e-3


def depth(name):
    if "embeddings" in name:
        return tiny.LAYERS + 1
    if ".layer." in name:
        return tiny.LAYERS - int(name.split(".layer.")[1].split(".")[0])
    return 0


def groups_by_name(bound):
    names = {p: n for n, p in bound.model.named_parameters()}
    return {names[p]: group for group in bound.optimizer.param_groups for p in group["params"]}


def test_each_layer_has_decay_times_the_rate_of_the_layer_above(tmp_path):
    bound = trainer(tiny.bert(), tmp_path, weight_decay=0.1, learning_rate=RATE)
    ftplug.attach(bound, "layerwise-lr", decay=0.5)
    bound.create_optimizer()
    found = groups_by_name(bound)
    assert found.keys() == {n for n, _ in bound.model.named_parameters()}  # alone: everything
    for name, group in found.items():
        assert group["lr"] == pytest.approx(RATE * 0.5 ** depth(name)), name
        spared = name.endswith("bias") or "LayerNorm" in name
        assert group["weight_decay"] == (0.0 if spared else 0.1), name


def test_the_optimizer_is_the_one_the_trainer_would_build(tmp_path):
    for optim in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd"):
        options = {"optim": optim, "adam_beta2": 0.95}
        plain = trainer(tiny.bert(), tmp_path, **options).create_optimizer()
        ours = trainer(tiny.bert(), tmp_path, **options)
        built = ftplug.attach(ours, "layerwise-lr").create_optimizer()
        assert type(built) is type(plain)
        mine, theirs = built.defaults, plain.defaults
        assert mine == theirs


def test_beside_lora_the_adapters_follow_their_layer(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path), "lora", LayerwiseLr(decay=0.5))
    bound.create_optimizer()
    found = groups_by_name(bound)
    assert all(".lora_" in name or "classifier" in name for name in found)
    for name, group in found.items():
        assert group["lr"] == pytest.approx(1e-3 * 0.5 ** depth(name)), name


def test_twenty_steps_equal_a_loop_written_by_hand(tmp_path):
    base = tiny.bert()
    bound = trainer(
        copy.deepcopy(base), tmp_path, save_strategy="no", train_sampling_strategy="sequential"
    )
    ftplug.attach(bound, "layerwise-lr", decay=0.3).train()

    model = copy.deepcopy(base)
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": RATE * 0.3 ** depth(n)} for n, p in model.named_parameters()],
        weight_decay=0.0,
    )
    assert losses(bound) == pytest.approx(by_hand(model, optimizer), abs=1e-6)


def test_resumed_equals_uninterrupted(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, LayerwiseLr(decay=0.7), weight_decay=0.1
    )
    assert same(weights(straight.model), weights(resumed.model))
    rates = {group["initial_lr"] for group in resumed.optimizer.param_groups}
    assert len(rates) == tiny.LAYERS + 2


def test_saved_and_loaded_it_is_a_plain_artifact(tmp_path):
    from runs import logits, shake

    base = tiny.bert()
    model = shake(ftplug.apply(copy.deepcopy(base), "layerwise-lr"))
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(model))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    assert same(weights(ftplug.merge(model)), weights(loaded))


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(MethodError, match="decay"):
        LayerwiseLr(decay=1.5)
    bound = trainer(tiny.bert(), tmp_path, optim="galore_adamw", optim_target_modules="all-linear")
    pytest.importorskip("galore_torch", reason="transformers' GaLore needs galore-torch")
    ftplug.attach(bound, "layerwise-lr")
    with pytest.raises(MethodError, match=r"optim=.*groups the parameters itself"):
        bound.create_optimizer()
