"""LoRA+: B learns faster than A, as peft's own optimizer has it; without LoRA it is refused."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.lora import Lora
from ftplug_plugins.lora_plus import LoraPlus
from halves import straight_and_resumed
from runs import by_hand, losses, same, trainer, weights

import ftplug
from ftplug import MethodError

RATE, RATIO = 1e-3, 8.0


def rate_of(name):
    """As the paper and peft have it: B and vectors fast, A and the head's matrix slow."""
    fast = ".lora_B." in name or name.endswith("bias")
    return RATE * RATIO if fast else RATE


@pytest.mark.parametrize("order", [("lora", "lora-plus"), ("lora-plus", "lora")])
def test_b_learns_ratio_times_as_fast_as_a(tmp_path, order):
    bound = trainer(tiny.bert(), tmp_path, weight_decay=0.1, optim="sgd")
    ftplug.attach(bound, *order, **{"lora-plus.loraplus_lr_ratio": RATIO})
    bound.create_optimizer()
    assert type(bound.optimizer) is torch.optim.SGD  # what the run asks for
    names = {p: n for n, p in bound.model.named_parameters()}
    found = {names[p]: g for g in bound.optimizer.param_groups for p in g["params"]}
    assert sum(".lora_B." in name for name in found) == 2 * tiny.LAYERS
    for name, group in found.items():
        assert group["lr"] == rate_of(name), name
        assert group["weight_decay"] == (0.0 if name.endswith("bias") else 0.1)


def test_twenty_steps_equal_a_loop_written_by_hand(tmp_path):
    base = tiny.bert()
    bound = trainer(
        copy.deepcopy(base), tmp_path, save_strategy="no", train_sampling_strategy="sequential"
    )
    ftplug.attach(bound, "lora", "lora-plus", **{"lora-plus.loraplus_lr_ratio": RATIO}).train()

    model = ftplug.apply(copy.deepcopy(base), "lora").train()
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": rate_of(n)} for n, p in named.items()], weight_decay=0.0
    )
    assert losses(bound) == pytest.approx(by_hand(model, optimizer), abs=1e-6)
    assert losses(bound)[-1] != pytest.approx(losses(bound)[0], abs=1e-3)


def test_lora_on_embeddings_has_its_own_rate(tmp_path):
    bound = trainer(tiny.llama(), tmp_path)
    lora = Lora(target_modules=("embed_tokens", "q_proj"))
    ftplug.attach(bound, lora, LoraPlus(loraplus_lr_embedding=1e-5)).create_optimizer()
    names = {p: n for n, p in bound.model.named_parameters()}
    found = {names[p]: g["lr"] for g in bound.optimizer.param_groups for p in g["params"]}
    rates = {rate for name, rate in found.items() if "embedding" in name}
    assert rates == {1e-5}


def test_resumed_equals_uninterrupted(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, Lora(r=4), LoraPlus()
    )
    assert same(weights(straight.model), weights(resumed.model))


@pytest.mark.parametrize("beside", [(), ("full",), ("bottleneck",)])
def test_without_lora_it_is_refused(beside):
    model = tiny.bert()
    with pytest.raises(MethodError, match="lora-plus: there is no LoRA to train: name lora"):
        ftplug.apply(model, "lora-plus", *beside)
    assert same(weights(model), weights(tiny.bert()))


def test_two_optimizers_are_refused(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path), "lora", "lora-plus", "layerwise-lr")
    with pytest.raises(MethodError, match="lora-plus and layerwise-lr each build an optimizer"):
        bound.train()
