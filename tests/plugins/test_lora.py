"""LoRA through peft: its parameters, its targets, its refusals."""

import peft
import pytest
import tiny
import torch
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
