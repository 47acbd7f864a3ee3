"""What a device must not change: run on the CPU, and on a GPU where there is one."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.lora_parts.fused import FusedLinear
from ftplug_plugins.peft_bridge.files import tuner_layers
from ftplug_plugins.trunk_cache.method import TrunkCache
from peft.tuners.lora import Linear as PeftLinear
from runs import METHODS, losses, shake, trainer

import ftplug
from ftplug.testing.compare import logits


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


def batch_of(model, device):
    return {name: value.to(device) for name, value in tiny.inputs(model).items()}


def answers(model, device):
    return logits(model, batch_of(model, device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix-tuning", "reft", "ia3"])
def test_disabled_gives_the_bases_answers_to_the_last_bit(device, method, dtype):
    base = tiny.llama().to(device, dtype).eval()
    expected = answers(base, device)
    model = shake(ftplug.apply(copy.deepcopy(base), method, **METHODS.get(method, {})), 0.3).eval()
    assert not answers(model, device).equal(expected)
    with ftplug.disabled(model):
        assert answers(model, device).equal(expected)


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prefix-tuning", "reft"])
def test_a_copy_answers_alike_and_trains_by_itself(device, method):
    model = shake(ftplug.apply(tiny.llama().to(device), method, **METHODS.get(method, {})), 0.3)
    model.eval()
    twin = copy.deepcopy(model)
    expected = answers(model, device)
    assert answers(twin, device).equal(expected)
    shake(twin, 0.3)
    assert not answers(twin, device).equal(expected)
    assert answers(model, device).equal(expected)


def gradients(model, forward, device, dtype):
    """Return all gradients of a forward of LoRA's layers, one after the other."""
    for _, layer in tuner_layers(model):
        if type(layer) in (FusedLinear, PeftLinear):
            layer.__class__ = forward
    model.zero_grad()
    with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
        loss = model(**batch_of(model, device)).loss
    loss.backward()
    return torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_fused_lora_is_as_exact_as_pefts_forward(device, dtype):
    """By itself one rounding says little: the errors of several models are added."""
    ours = theirs = whole = 0.0
    for seed in range(8):
        torch.manual_seed(seed)
        model = tiny.llama().to(device)
        ftplug.apply(model, "lora", r=4, target_modules="all-linear", seed=seed)
        assert any(type(layer) is FusedLinear for _, layer in tuner_layers(model))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn(parameter.shape).to(device)
        exact = gradients(model, PeftLinear, device, None)
        whole += exact.norm().item()
        ours += (gradients(model, FusedLinear, device, dtype) - exact).norm().item()
        theirs += (gradients(model, PeftLinear, device, dtype) - exact).norm().item()
    assert ours <= 1.25 * theirs + 1e-4 * whole


def test_the_trunk_cache_changes_no_loss(device, tmp_path):
    found = []
    for methods in ([Freeze(layers=1)], [Freeze(layers=1), TrunkCache()]):
        options = {"max_steps": 16, "save_strategy": "no", "use_cpu": device == "cpu"}
        bound = trainer(tiny.bert(dropout=0.0), tmp_path, **options)
        ftplug.attach(bound, *methods).train()
        assert next(bound.model.parameters()).device.type == device
        found.append(losses(bound))
    assert found[0] == pytest.approx(found[1], abs=1e-5)
