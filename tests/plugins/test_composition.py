"""Methods together: several structures as one artifact; optimizers and regularisers in any mix."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.apollo import Apollo
from ftplug_plugins.bitfit import BitFit
from ftplug_plugins.bottleneck import Bottleneck
from ftplug_plugins.galore import Galore
from ftplug_plugins.gradual_unfreezing import GradualUnfreezing
from ftplug_plugins.l2_sp import L2Sp
from ftplug_plugins.layernorm import LayerNorm
from ftplug_plugins.layerwise_lr import LayerwiseLr
from ftplug_plugins.lisa import Lisa
from ftplug_plugins.lora import Lora
from ftplug_plugins.prefix_tuning import PrefixTuning
from ftplug_plugins.reft import Reft
from halves import straight_and_resumed
from runs import logits, losses, rows, same, shake, trainer, weights
from transformers import set_seed

import ftplug
from ftplug import MethodError

# He et al. 2021, https://arxiv.org/abs/2110.04366: a prefix, and adapters beside the feed-forward.
MAM = (Bottleneck(placement="parallel", reduction_factor=4, scaling=4.0),
       PrefixTuning(num_virtual_tokens=4))  # fmt: skip
STRUCTURES = {
    "lora + bitfit": (Lora(r=4), BitFit()),
    "mam": MAM,
    "lora + layernorm + reft": (Lora(r=4), LayerNorm(), Reft()),
    "gradual unfreezing + lora": (GradualUnfreezing(), Lora(r=4)),
}
ORDERS = {
    "mam, the other order": MAM[::-1],
    "bottleneck + bitfit + lora": (Bottleneck(reduction_factor=4), BitFit(), Lora(r=4)),
}


def each(cases):
    return pytest.mark.parametrize("methods", cases.values(), ids=cases.keys())


@each(STRUCTURES)
def test_trains_and_resumes(methods, tmp_path):
    straight, resumed = straight_and_resumed(lambda: tiny.bert(dropout=0.1), tmp_path, *methods)
    assert same(weights(straight.model), weights(resumed.model))
    fresh = ftplug.apply(tiny.bert(), *methods)
    start, after = weights(fresh), weights(straight.model)
    trains = {n for n, p in fresh.named_parameters() if p.requires_grad}
    moved = {n for n in after if not after[n].equal(start[n])}
    # A key's bias has no gradient.
    assert {n for n in trains if not n.endswith(("key.bias", "key.base_layer.bias"))} <= moved
    assert moved <= trains


@each(STRUCTURES | ORDERS)
@pytest.mark.parametrize("make", [tiny.bert, tiny.vit, tiny.t5, tiny.llama])
def test_starts_as_the_base_and_is_saved_as_one_artifact(methods, make, tmp_path):
    base = make()
    prefix = any(method.name == "prefix-tuning" for method in methods)
    biases = any(method.name == "bitfit" for method in methods)
    if (prefix and make is tiny.vit) or (biases and make in (tiny.t5, tiny.llama)):
        with pytest.raises(MethodError):
            ftplug.apply(base, *methods)
        assert same(weights(base), weights(make()))
        return
    model = ftplug.apply(copy.deepcopy(base), *methods)
    assert prefix or torch.equal(logits(model), logits(base))
    shake(model)
    trained = logits(model)
    ftplug.save(model, tmp_path / "artifact")
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), trained)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    twin = copy.deepcopy(model)
    shake(twin)
    assert torch.equal(logits(model), trained)
    assert not torch.equal(logits(twin), trained)


OPTIMIZERS = {
    "trainer": (),
    "layerwise-lr": (LayerwiseLr(decay=0.5),),
    "galore": (Galore(rank=2, update_proj_gap=2),),
    "apollo": (Apollo(rank=2, update_proj_gap=2),),
}
TRAINED = {
    "full": ("full",),
    "alone": (),
    "lora": (Lora(r=8),),
    "bottleneck": (Bottleneck(reduction_factor=4),),
    "lisa": (Lisa(layers=1, period=1),),
    "prefix + bitfit": (PrefixTuning(num_virtual_tokens=4), BitFit()),
}


@pytest.mark.parametrize("trained", TRAINED)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_structure_optimizer_and_regulariser_in_any_mix(tmp_path, trained, optimizer):
    methods = (*TRAINED[trained], *OPTIMIZERS[optimizer], L2Sp(alpha=1.0, beta=1.0))
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", max_steps=3)
    ftplug.attach(bound, *methods)
    start = weights(bound.model)
    if trained == "prefix + bitfit" and optimizer in ("galore", "apollo"):
        with pytest.raises(MethodError, match="nothing would be saved: set a lower rank"):
            bound.train()
        return
    bound.train()
    may_train = set(bound.ftplug.attached.plan.may_train)
    changes = {n: (v - start[n]).abs().max() for n, v in weights(bound.model).items()}
    assert all(change == 0 for name, change in changes.items() if name not in may_train)
    if trained != "lisa":  # it may draw one layer each time
        still = {n for n in may_train if changes[n] < 1e-6 and not n.endswith("key.bias")}
        assert still == set()
    if optimizer == "trainer":
        bound.save_model(tmp_path / "artifact")
        loaded = ftplug.load(tiny.bert(), tmp_path / "artifact")
        assert torch.equal(logits(loaded), logits(bound.model))


def test_a_regulariser_changes_what_an_optimizer_does(tmp_path):
    found = {}
    for pull in ((), (L2Sp(alpha=5.0, beta=5.0),)):
        bound = trainer(tiny.bert(), tmp_path, save_strategy="no")
        ftplug.attach(bound, Lora(r=8), *OPTIMIZERS["galore"], *pull).train()
        found[len(pull)] = losses(bound)
    assert found[0][0] == found[1][0]
    assert found[0][-1] != pytest.approx(found[1][-1], abs=1e-4)


# What the Trainer has already


def test_neftune_beside_lora_equals_peft_and_trainer(tmp_path):
    import peft

    base = tiny.llama()
    options = {"save_strategy": "no", "neftune_noise_alpha": 5.0}
    ours = ftplug.attach(trainer(copy.deepcopy(base), tmp_path, **options), "lora", r=4)
    ours.train()
    theirs_model = copy.deepcopy(base)
    set_seed(42)
    config = peft.LoraConfig(r=4, lora_alpha=16, task_type="CAUSAL_LM")
    theirs = trainer(
        peft.get_peft_model(theirs_model, config), tmp_path, label_names=["labels"], **options
    )
    theirs.train_dataset = rows(base)
    theirs.train()
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-6)
    without = trainer(copy.deepcopy(base), tmp_path, save_strategy="no")
    ftplug.attach(without, "lora", r=4).train()
    assert losses(ours) != pytest.approx(losses(without), abs=1e-4)
    ours.save_model(tmp_path / "artifact")  # the noise is gone after training
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(logits(loaded), logits(ours.model))


@pytest.mark.parametrize("method", [(Lora(r=4),), (BitFit(),), (GradualUnfreezing(),)])
def test_neftune_and_adafactor_beside_a_method_resume(tmp_path, method):
    options = {"neftune_noise_alpha": 5.0, "optim": "adafactor"}
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, *method, **options
    )
    assert same(weights(straight.model), weights(resumed.model))
    assert type(straight.optimizer.optimizer).__name__ == "Adafactor"


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adagrad", "rmsprop", "adafactor"])
def test_optim_names_reach_the_optimizer(tmp_path, optim):
    plain = type(trainer(tiny.bert(), tmp_path, optim=optim).create_optimizer())
    bound = trainer(tiny.bert(), tmp_path, optim=optim, save_strategy="no", max_steps=2)
    ftplug.attach(bound, "lora")
    start = weights(bound.model)
    bound.train()
    assert type(bound.optimizer.optimizer) is plain
    held = {p for group in bound.optimizer.param_groups for p in group["params"]}
    assert held == {p for p in bound.model.parameters() if p.requires_grad}
    assert not same(weights(bound.model), start)
