"""LoRA through peft: its parameters, its targets, its refusals."""

import copy

import peft
import pytest
import tiny
import torch
from ftplug_plugins.lora import Lora
from peft.tuners.lora import LoraLayer
from peft_twins import layers_equal_pefts
from runs import logits, shake
from transformers import set_seed

import ftplug
from ftplug import MethodError


def adapted(model):
    return {n.partition(".lora_")[0] for n, _ in model.named_parameters() if ".lora_" in n}


@pytest.mark.parametrize("make", [tiny.bert, tiny.roberta, tiny.gpt2, tiny.llama, tiny.t5])
def test_parameters_and_values_equal_pefts(make):
    ours = ftplug.apply(make(), "lora", r=4)
    base = make()
    set_seed(42)
    transposed = make is tiny.gpt2
    config = peft.LoraConfig(r=4, lora_alpha=16, fan_in_fan_out=transposed)
    theirs = peft.get_peft_model(base, config).base_model.model
    found = {n: p for n, p in theirs.named_parameters() if ".lora_" in n}
    mine = {n: p for n, p in ours.named_parameters() if ".lora_" in n}
    assert mine.keys() == found.keys()
    assert all(torch.equal(p, found[n]) for n, p in mine.items())
    assert torch.equal(logits(ours), logits(make()))  # B is zero


@pytest.mark.parametrize(
    ("make", "names"), [(tiny.distilbert, {"q_lin", "v_lin"}), (tiny.vit, {"q_proj", "v_proj"})]
)
def test_query_and_value_are_found_where_peft_has_no_default(make, names):
    targets = adapted(ftplug.apply(make(), "lora"))
    assert {name.rpartition(".")[2] for name in targets} == names
    assert len(targets) == 2 * tiny.LAYERS


def test_targets_by_end_and_all_linear():
    assert len(adapted(ftplug.apply(tiny.bert(), "lora", target_modules=["key"]))) == 2
    everything = adapted(ftplug.apply(tiny.bert(), "lora", target_modules=["all-linear"]))
    assert len(everything) == 6 * tiny.LAYERS + 1  # and the pooler; the head trains as a whole
    assert not any("classifier" in name for name in everything)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}, {"bias": "all"},
                                      {"bias": "lora_only"}, {"lora_dropout": 0.1}])  # fmt: skip
def test_variants_save_load_and_switch_off(settings, tmp_path):
    base = tiny.bert()
    model = shake(ftplug.apply(tiny.bert(), "lora", **settings))
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path)), logits(model))
    again = peft.PeftModel.from_pretrained(tiny.bert(), tmp_path).eval()
    assert torch.equal(logits(again, tiny.inputs(base)), logits(model))
    with ftplug.disabled(model):
        assert torch.equal(logits(model), logits(base))


def test_a_half_precision_base_gets_float32_adapters():
    model = ftplug.apply(tiny.bert().to(torch.bfloat16), "lora")
    dtypes = {n: p.dtype for n, p in model.named_parameters()}
    assert {d for n, d in dtypes.items() if ".lora_" in n} == {torch.float32}
    assert {d for n, d in dtypes.items() if ".lora_" not in n} == {torch.bfloat16}


def test_targets_that_are_not_there_are_one_line():
    with pytest.raises(MethodError, match=r"lora: .*nothing_here") as caught:
        ftplug.apply(tiny.bert(), "lora", target_modules=["nothing_here"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("order", [("bottleneck", "lora"), ("lora", "bottleneck")])
def test_all_linear_beside_bottleneck(order, tmp_path):
    model = shake(ftplug.apply(tiny.bert(), *order, **{"lora.target_modules": ["all-linear"]}))
    assert not any(".adapter." in name for name in adapted(model))
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path)), logits(model))


SETTINGS = [
    {"init_lora_weights": "gaussian"},
    pytest.param({"init_lora_weights": "mica"}, id="mica", marks=pytest.mark.skipif(
        not hasattr(LoraLayer, "mica_init"), reason="MiCA needs peft ≥ 0.20")),
    {"init_lora_weights": "orthogonal"},
    {"rank_pattern": {"0.attention.self.query": 2}, "alpha_pattern": {"value": 3}},
    {"layers_to_transform": [1]},
    {"lora_bias": True},
    {"target_parameters": ["self.query.weight"], "target_modules": ["value"]},
    {"use_bdlora": {"target_modules_bd_a": ["query"], "target_modules_bd_b": ["value"],
                    "nblocks": 2}},
]  # fmt: skip


def label(settings):
    return "-".join(str(value) for pair in settings.items() for value in pair)[:40]


@pytest.mark.parametrize("settings", SETTINGS, ids=label)
def test_trains_as_in_peft_and_leaves_the_base(settings, tmp_path):
    base = tiny.bert(dropout=0.1)
    model = ftplug.apply(copy.deepcopy(base), "lora", r=4, lora_alpha=8, **settings)
    if settings.get("init_lora_weights") == "orthogonal":
        assert torch.allclose(logits(model), logits(base), atol=1e-6)
    else:
        assert torch.equal(logits(model), logits(base))
    block = settings.get("use_bdlora")
    config = peft.LoraConfig(
        **{"target_modules": ["query", "value"], "lora_alpha": 8} | settings
        | ({"use_bdlora": peft.tuners.lora.config.BdLoraConfig(**block)} if block else {}),
        r=4, task_type="SEQ_CLS",
    )  # fmt: skip
    set_seed(42)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    layers_equal_pefts(model, theirs, base, tmp_path)


@pytest.mark.parametrize("start", ["eva", "corda", "lora_ga", "loftq", "nonsense"])
def test_starts_that_cannot_be_had_say_why(start):
    with pytest.raises(MethodError, match=rf"lora: init_lora_weights={start}: it ") as caught:
        ftplug.apply(tiny.bert(), "lora", init_lora_weights=start)
    cure = {"loftq": "the method qlora", "nonsense": "gaussian, orthogonal or mica"}
    assert cure.get(start, "the methods pissa or olora") in str(caught.value)


@pytest.mark.parametrize(
    ("start", "cure"),
    [("pissa", "use pissa"), ("olora", "use olora"), ("pissa_niter_4", "use pissa with niter=4")],
)
def test_an_instance_with_a_start_that_moved_names_the_method(start, cure):
    with pytest.raises(MethodError, match=f"it is a method of its own: {cure}$"):
        Lora(init_lora_weights=start)
