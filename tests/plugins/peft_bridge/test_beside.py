"""Two methods of peft on one model: independent modules, one artifact; what meets is refused."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.peft_bridge.injected import injections
from halves import straight_and_resumed
from runs import logits, same, shake, weights

import ftplug
from ftplug import MethodError

FEED_FORWARD = ("intermediate.dense", "layer.0.output.dense", "layer.1.output.dense")
NORMS = ("attention.output.LayerNorm",)
PAIRS = {
    "lora, ia3": {
        "ia3.target_modules": FEED_FORWARD,
        "ia3.feedforward_modules": FEED_FORWARD,
    },
    "ia3, lora": {
        "ia3.target_modules": ("key", *FEED_FORWARD),
        "ia3.feedforward_modules": FEED_FORWARD,
        "lora.target_modules": ("query", "value"),
        "lora.use_dora": True,
    },
    "lora, ln-tuning": {"ln-tuning.target_modules": NORMS},
    "trainable-tokens, lora": {
        "trainable-tokens.token_indices": tuple(range(3, 40)),
        "lora.target_modules": ("query",),
    },
    "adamss, lora": {
        "adamss.target_modules": ("query",),
        "lora.target_modules": ("value",),
    },
    "vera, oft": {
        "vera.r": 4,
        "vera.target_modules": ("query",),
        "oft.target_modules": ("value",),
    },
    "lokr, shira, osf": {
        "lokr.target_modules": ("query",),
        "shira.target_modules": ("value",),
        "shira.r": 4,
        "osf.target_modules": ("key",),
    },
}
both = pytest.mark.parametrize("pair", PAIRS)


def put(pair, model):
    return ftplug.apply(model, *pair.split(", "), **PAIRS[pair])


@both
def test_they_are_one_artifact(pair, tmp_path):
    base = tiny.bert()
    model = put(pair, copy.deepcopy(base))
    assert torch.allclose(logits(model), logits(base), atol=1e-6)
    shake(model)
    trained = logits(model)
    ftplug.save(model, tmp_path / "a")
    assert not (tmp_path / "a/adapter_config.json").exists()  # half of it would load in peft
    loaded = ftplug.load(copy.deepcopy(base), tmp_path / "a")
    assert torch.equal(logits(loaded), trained)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))
    twin = shake(copy.deepcopy(model))
    assert torch.equal(logits(model), trained)
    assert not torch.equal(logits(twin), trained)
    merged = ftplug.merge(model)
    assert torch.allclose(logits(merged), trained, atol=1e-5)
    assert weights(merged).keys() == weights(base).keys()


@both
def test_both_train_and_resume(pair, tmp_path):
    methods = [type(m).configure(m.settings()) for m in chosen(pair)]
    straight, resumed = straight_and_resumed(lambda: tiny.bert(dropout=0.1), tmp_path, *methods)
    assert same(weights(straight.model), weights(resumed.model))
    start, after = weights(put(pair, tiny.bert())), weights(straight.model)
    moved = {name for name in after if not after[name].equal(start[name])}
    assert set(straight.ftplug.attached.plan.may_train) <= moved
    for method in methods:
        alone = ftplug.apply(tiny.bert(), type(method).configure(method.settings()))
        assert {n for n, p in alone.named_parameters() if p.requires_grad} <= moved, method.name


def chosen(pair):
    from ftplug.host import resolve

    return resolve(pair.split(", "), PAIRS[pair])


@pytest.mark.parametrize(
    ("pair", "settings", "message"),
    [
        ("ia3, vera", {}, "vera: its target .*value meets .*value, which peft's ia3 adapts"),
        ("ia3, lora", {"lora.target_modules": "all-linear"}, "beside peft's ia3 name its target"),
        ("lora, ia3", {}, r"ia3: its target .*value meets .*value, which peft's lora adapts"),
        ("lora, vera", {"vera.target_modules": ("attention",)}, "query meets .*query"),
        ("lora, adalora", {"adalora.total_step": 300}, "and adalora shares a model with no other"),
        ("poly, ia3", {}, "and poly shares a model with no other"),
        ("pissa, ia3", {}, "ia3: the model has .* shares a model with no other"),
        ("lora, gralora", {}, "gralora: its target .*query meets"),
        (
            "qlora, ia3",
            {"qlora.target_modules": ("query",), "ia3.target_modules": ("key",)},
            "ia3: .* and lora shares a model with no other",
        ),
        ("lora, lokr, lora", {"lokr.target_modules": ("key",)}, "'lora' is given twice"),
    ],
)
def test_what_is_not_independent_is_refused(pair, settings, message):
    base = tiny.bert()
    before = weights(base)
    with pytest.raises(MethodError, match=message) as caught:
        ftplug.apply(base, *pair.split(", "), **settings)
    assert "\n" not in str(caught.value)
    assert same(before, weights(base))


@pytest.mark.methods("lily")
@pytest.mark.parametrize(("lora", "lily"), [("query", "value"), ("value", "query")])
def test_a_refused_merge_leaves_the_base_to_the_last_bit(lora, lily):
    base = tiny.bert()
    settings = {"lora.target_modules": (lora,), "lily.target_modules": (lily,)}
    model = shake(ftplug.apply(copy.deepcopy(base), "lora", "lily", **settings))
    trained = logits(model)
    with pytest.raises(MethodError, match="merge"):
        ftplug.merge(model)
    assert torch.equal(logits(model), trained)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))


@both
def test_the_record_is_the_models_own_and_peft_configs_hold_nothing_but_pefts(pair):
    model = put(pair, tiny.bert())
    twin = copy.deepcopy(model)
    names = pair.split(", ")
    assert [i.method for i in injections(model)] == [i.method for i in injections(twin)] == names
    assert twin.peft_config["default"] is injections(twin)[-1].config
    for mine, copied in zip(injections(model), injections(twin), strict=True):
        assert mine.config is not copied.config
        assert mine.trainable == copied.trainable != ()
        assert not [name for name in vars(mine.config) if "ftplug" in name]
        assert vars(mine.config).keys() == vars(type(mine.config)()).keys()
    assert injections(ftplug.merge(twin)) == ()
    assert not hasattr(twin, "peft_config")
    assert len(injections(model)) == len(names)
