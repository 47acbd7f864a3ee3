"""A change that fails halfway leaves the model as it was, to the last bit."""

import copy

import pytest
import tiny
import torch
from transformers import MixtralConfig, MixtralForCausalLM

import ftplug
from ftplug import Method, hookimpl
from ftplug.attaching.attachment import attachment_of
from ftplug.attaching.rehearsal import Change
from ftplug.testing.compare import difference, logits, weights


def structure_of(model):
    return [(name, type(module), sorted(vars(module))) for name, module in model.named_modules()]


def refused(base, *methods, **settings):
    """Return why methods are refused; the model is as it was, and takes another method."""
    before, found, expected = weights(base), structure_of(base), logits(base)
    trains = [p.requires_grad for p in base.parameters()]
    with pytest.raises((ftplug.FtplugError, ZeroDivisionError)) as failed:
        ftplug.apply(base, *methods, **settings)
    assert difference(before, weights(base)) is None
    assert structure_of(base) == found
    assert [p.requires_grad for p in base.parameters()] == trains
    assert attachment_of(base) is None
    assert logits(base).equal(expected)
    ftplug.apply(base, "bitfit" if hasattr(base, "bert") else "full")
    return str(failed.value)


@pytest.mark.parametrize("method", ["pissa", "olora"])
@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llama", ("embed_tokens", "q_proj")),
        ("llama", ("q_proj", "embed_tokens")),
        ("gpt2", ("wte", "c_attn")),
        ("bert", ("word_embeddings", "query")),
    ],
)
def test_starts_from_what_has_no_such_weight_are_refused(method, family, targets):
    said = refused(getattr(tiny, family)(), method, target_modules=targets, r=4)
    assert "decomposes the weights of linear layers" in said
    assert "\n" not in said


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_experts_are_refused(method):
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=tiny.VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, pad_token_id=0,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    said = refused(model, method, target_modules="all-linear", r=4)
    assert "decomposes the weights of linear layers, and model.layers.0.mlp" in said


@pytest.mark.parametrize("method", ["pissa", "olora"])
def test_a_decomposition_that_fails_halfway_leaves_the_weights(method, monkeypatch):
    from peft.tuners.lora.layer import LoraLayer

    decompose, layers = getattr(LoraLayer, f"{method}_init"), []

    def failing(layer, *given):
        weight = layer.get_base_layer().weight
        decompose(layer, *given)
        layers.append(weight)
        weight.data.zero_()
        if len(layers) > 2 and not weight.is_meta:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(LoraLayer, f"{method}_init", failing)
    model = tiny.llama()
    before, places = weights(model), [p.data_ptr() for p in model.parameters()]
    with pytest.raises((ftplug.FtplugError, torch.OutOfMemoryError)):
        ftplug.apply(model, method, r=4)
    assert sum(not weight.is_meta for weight in layers) >= 1
    assert difference(before, weights(model)) is None
    assert [p.data_ptr() for p in model.parameters()] == places


class Failing(Method):
    """Changes everything that can be changed, and then fails on real weights alone."""

    name = "failing"

    @hookimpl
    def prepare_model(self, model):
        if next(model.parameters()).is_meta:
            raise NotImplementedError("computes with the weights")
        layer = model.bert.encoder.layer[0].attention.self
        layer.query = torch.nn.Linear(32, 32)
        layer.key.weight.data = torch.zeros(32, 32)
        layer.value.register_forward_hook(lambda *_: None)
        layer.extra = torch.nn.Parameter(torch.ones(3))
        layer.__class__ = type("Other", (type(layer),), {})
        model.bert.config_of_a_method = {"r": 4}
        model.requires_grad_(False)
        raise ZeroDivisionError


def test_whatever_a_method_did_is_taken_back():
    base = tiny.bert()
    base.bert.pooler.register_forward_hook(lambda *_: None)
    handle = base.classifier.register_forward_hook(lambda *_: None)
    refused(base, Failing())
    handle.remove()
    assert not base.classifier._forward_hooks
    assert len(base.bert.pooler._forward_hooks) == 1


@pytest.mark.parametrize("method", ["lora", "bottleneck", "prompt-tuning", "ia3", "reft", "vera"])
def test_a_method_that_fails_at_its_end_is_taken_back(method, monkeypatch):
    to = Change.to

    def failing(self, model):
        to(self, model)
        if not next(model.parameters()).is_meta:
            raise ftplug.MethodError("after all was done")

    monkeypatch.setattr(Change, "to", failing)
    base = tiny.bert()
    before, found, expected = weights(base), structure_of(base), logits(base)
    with pytest.raises((ftplug.MethodError, AttributeError)):
        ftplug.apply(base, method)
    assert difference(before, weights(base)) is None
    assert structure_of(base) == found
    assert logits(base).equal(expected)
    monkeypatch.undo()
    twin = copy.deepcopy(base)
    ftplug.apply(base, method)
    ftplug.apply(twin, method)
    assert difference(weights(base), weights(twin)) is None
