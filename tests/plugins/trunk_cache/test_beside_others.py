"""The trunk cache beside every method whose lower layers may stay frozen, in either order."""

import dataclasses

import pytest
import tiny
import torch
from contracts import contract
from ftplug_plugins.freeze import Freeze
from ftplug_plugins.reft import Reft
from ftplug_plugins.trunk_cache.method import TrunkCache
from ftplug_plugins.trunk_cache.trunk import TRUNK
from runs import same, weights
from trunks import batches, trained_losses, trunk

import ftplug
from ftplug import Method, MethodError, hookimpl
from ftplug.inplace import is_wrapped

REFUSED = {"shadow", "alora"}  # shadow alone, too
OF_LAYERS = sorted(
    name
    for name, cls in ftplug.methods().items()
    if any(field.name == "layers_to_transform" for field in dataclasses.fields(cls))
    and name not in REFUSED
)


def on_the_top_layer(name):
    """Return the method as the contract tests it, on the upper of two layers."""
    settings = contract(name).get("settings", {})
    return ftplug.methods()[name].configure({**settings, "layers_to_transform": (1,)})


def equal_with_and_without(make, *methods):
    """Train with and without a trunk cache; return the losses with it, which are equal."""
    plain = ftplug.apply(make(), *methods)
    data = list(batches(plain))
    expected = trained_losses(plain, data)
    assert expected[0] != expected[-1]
    for order in ((*methods, TrunkCache()), (TrunkCache(), *methods)):
        caching = ftplug.apply(make(), *order)
        assert trained_losses(caching, data) == pytest.approx(expected, abs=1e-5)
        assert (trunk(caching).hits, trunk(caching).spec.depth) == (24, 1)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_pefts_types_on_the_top_layers(name):
    equal_with_and_without(tiny.bert, on_the_top_layer(name))


def test_alora_changes_what_the_model_reads():
    """It looks for its invocation tokens there."""
    with pytest.raises(MethodError, match="another method changes what LlamaModel reads"):
        ftplug.apply(tiny.llama(), on_the_top_layer("alora"), TrunkCache())


@pytest.mark.parametrize("name", ["adalora", "ia3", "vera"])
def test_all_layers_leave_no_trunk(name):
    model = tiny.bert()
    before = weights(model)
    with pytest.raises(MethodError, match=r"trunk-cache: needs .*layer\.0 trains: restrict"):
        ftplug.apply(model, name, "trunk-cache")
    assert same(weights(model), before)


class Shifts(Method):
    """Adds to a layer's output, by a forward hook, what it never trains."""

    name = "shifts"

    @hookimpl
    def prepare_model(self, model):
        layer = model.bert.encoder.layer[0]
        layer.shift = torch.nn.Parameter(torch.ones(tiny.HIDDEN))
        layer.register_forward_hook(lambda module, args, output: output + module.shift)

    @hookimpl
    def select_trainable(self, model):
        return []


def test_a_layer_with_a_frozen_part_of_a_method_is_none_of_the_trunk():
    with pytest.raises(MethodError, match=r"another method changes bert\.encoder\.layer\.0"):
        ftplug.apply(tiny.bert(), Shifts(), Freeze(layers=1), "trunk-cache")


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "t5"])
def test_reft_on_the_top_layer(family):
    equal_with_and_without(tiny.FAMILIES[family], Reft(layers=(1,)))


def test_ia3_on_a_part_of_the_top_layer():
    """It has no layers_to_transform: its target modules name the layer."""
    cls = ftplug.methods()["ia3"]
    targets = tuple(f"layer.1.attention.self.{part}" for part in ("key", "value"))
    method = cls.configure({"target_modules": targets, "feedforward_modules": ()})
    equal_with_and_without(tiny.bert, method)


@pytest.mark.parametrize("bits", [4, 8])
def test_qlora_on_the_top_layer(bits):
    pytest.importorskip("bitsandbytes", reason="pip install 'ftplug[qlora]'")
    target = ("layer.1.attention.self.query",)
    method = ftplug.methods()["qlora"].configure({"target_modules": target, "bits": bits})
    equal_with_and_without(tiny.bert, method)


@pytest.mark.parametrize("family", ["bert", "distilbert", "vit"])
@pytest.mark.parametrize("layers", [0, 1])
def test_what_freeze_holds_in_eval_mode_is_still_a_trunk(family, layers):
    """With frozen_eval a frozen part is wrapped: a layer, all of them, the backbone itself."""
    make = lambda: tiny.FAMILIES[family](dropout=0.3)  # noqa: E731
    methods = (Freeze(layers=layers, frozen_eval=True),)
    plain = ftplug.apply(make(), *methods)
    data = list(batches(plain))
    expected = trained_losses(plain, data)
    for order in ((*methods, TrunkCache()), (TrunkCache(), *methods)):
        caching = ftplug.apply(make(), *order)
        assert trained_losses(caching, data) == pytest.approx(expected, abs=1e-5)
        assert trunk(caching).hits == 24
        merged = ftplug.merge(caching)
        assert not any(map(is_wrapped, merged.modules()))
        assert type(merged) is type(make())


def test_a_refused_merge_leaves_the_cache():
    model = ftplug.apply(tiny.bert(), "trunk-cache", "bottleneck", **{"bottleneck.layers": 1})
    data = list(batches(model))
    trained_losses(model, data[:3])
    before, kept = weights(model), trunk(model)
    with pytest.raises(MethodError, match="bottleneck: what it adds cannot be folded"):
        ftplug.merge(model)
    assert same(weights(model), before)
    trained_losses(model, data[3:6])
    assert trunk(model) is kept
    assert kept.hits == 12


@pytest.mark.parametrize("order", [("lora", "trunk-cache"), ("trunk-cache", "lora")])
def test_a_merge_that_lora_refuses_leaves_the_cache(order, monkeypatch):
    from ftplug_plugins.lora import Lora
    from ftplug_plugins.peft_bridge import files

    def refuse(model, name):
        raise MethodError("lora: not today")

    methods = {"lora": Lora(layers_to_transform=(1,)), "trunk-cache": TrunkCache()}
    model = ftplug.apply(tiny.bert(), *(methods[name] for name in order))
    with monkeypatch.context() as patch:
        patch.setattr(files, "merge", refuse)
        with pytest.raises(MethodError, match="not today"):
            ftplug.merge(model)
    assert trunk(model)
    assert not any(TRUNK in module.__dict__ for module in ftplug.merge(model).modules())
