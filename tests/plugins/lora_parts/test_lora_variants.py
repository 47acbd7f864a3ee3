"""PiSSA, OLoRA and aLoRA: LoRA's variants that are methods of their own."""

import copy

import peft
import pytest
import tiny
import torch
import transformers
from ftplug_plugins.alora import Alora
from ftplug_plugins.olora import Olora
from ftplug_plugins.pissa import Pissa
from halves import straight_and_resumed
from peft_twins import layers_equal_pefts
from runs import checkpoint, logits, same, shake, weights
from transformers import set_seed

import ftplug
from ftplug import MethodError

FROM_BASE = pytest.mark.parametrize("method", ["pissa", "olora"])
STARTS = {
    "pissa": ("pissa", {}, {}),
    "pissa_niter_0": ("pissa", {"niter": 0}, {}),
    "pissa_niter_4": ("pissa", {"niter": 4}, {}),
    "olora": ("olora", {}, {}),
    "pissa, scaled": ("pissa", {}, {"use_rslora": True, "lora_dropout": 0.1}),
    "olora, ranks": (
        "olora", {}, {"rank_pattern": {"query": 2}, "alpha_pattern": {"value": 8}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("start", STARTS)
def test_trains_as_in_peft_and_leaves_the_base(start, tmp_path):
    method, own, settings = STARTS[start]
    base = tiny.bert(dropout=0.1)
    model = ftplug.apply(copy.deepcopy(base), method, r=4, lora_alpha=8, **own, **settings)
    assert torch.equal(logits(model), logits(base))
    config = peft.LoraConfig(
        target_modules=["query", "value"], r=4, lora_alpha=8, task_type="SEQ_CLS",
        init_lora_weights=start.partition(",")[0], **settings,
    )  # fmt: skip
    set_seed(42)
    theirs = peft.get_peft_model(copy.deepcopy(base), config)
    layers_equal_pefts(model, theirs, base, tmp_path)


@FROM_BASE
def test_all_linear_is_every_layer_below_the_head(method, tmp_path):
    base = tiny.llama()
    model = ftplug.apply(copy.deepcopy(base), method, r=4, target_modules="all-linear")
    named = sorted({n.rpartition(".")[2] for n, m in base.named_modules() if "proj" in n})
    torch.manual_seed(0)
    other = ftplug.apply(copy.deepcopy(base), method, r=4, target_modules=named)
    assert weights(model).keys() == weights(other).keys()
    assert torch.equal(logits(model), logits(base))
    ftplug.save(shake(model), tmp_path / "artifact")
    assert same(weights(ftplug.load(base, tmp_path / "artifact")), weights(model))


def test_a_randomized_svd_comes_near_the_exact_one():
    """Eckart and Young: no matrices of rank r leave less of W than the exact SVD's."""
    base = tiny.bert()
    query = "bert.encoder.layer.0.attention.self.query"
    weight = base.get_submodule(query).weight.detach()

    def left(**settings):
        model = ftplug.apply(copy.deepcopy(base), "pissa", r=4, lora_alpha=4, **settings)
        start = model.get_submodule(query).lora_start
        return (weight - start["B"] @ start["A"]).norm().item()

    exact, fast, rough = left(), left(niter=16), left(niter=0)
    assert exact == pytest.approx(fast, rel=1e-3)
    assert exact == pytest.approx(torch.linalg.svdvals(weight)[4:].norm().item(), rel=1e-5)
    assert exact < fast < rough - 1e-3


def test_the_file_for_peft_doubles_the_rank(tmp_path):
    model = ftplug.apply(tiny.gpt2(), "pissa", r=3)
    ftplug.save(shake(model), tmp_path)
    config = peft.PeftConfig.from_pretrained(tmp_path)
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (6, 32, True)
    merged, trained = ftplug.merge(copy.deepcopy(model)), logits(model)
    assert torch.allclose(logits(merged), trained, atol=1e-6)


@FROM_BASE
def test_without_a_common_scale_it_is_saved_in_our_format(method, tmp_path):
    settings = {"use_rslora": True, "rank_pattern": {"query": 2}}
    model = shake(ftplug.apply(tiny.bert(), method, **settings))
    ftplug.save(model, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()
    assert torch.equal(logits(ftplug.load(tiny.bert(), tmp_path)), logits(model))


@FROM_BASE
@pytest.mark.parametrize(
    "setting",
    [
        {"init_lora_weights": "gaussian"},
        {"use_dora": True},
        {"use_bdlora": {"target_modules_bd_a": ["query"], "nblocks": 2}},
        {"lora_bias": True},
        {"target_parameters": ["self.query.weight"]},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_does_not_combine_with_a_start_from_the_base(method, setting):
    [name] = setting
    with pytest.raises(MethodError, match=f"{method}: {name}=.* does not combine with it: "):
        ftplug.apply(tiny.bert(), method, **setting)


def test_what_cannot_be_decomposed_is_refused_before_the_model_changes():
    model = tiny.gpt2()
    before = weights(model)
    with pytest.raises(MethodError, match=r"olora does not fit the Conv1D at .*: use pissa"):
        ftplug.apply(model, "olora")
    assert same(weights(model), before)


@FROM_BASE
def test_a_quantized_base_is_refused(method, tmp_path):
    pytest.importorskip("bitsandbytes", reason="pip install 'ftplug[qlora]'")
    tiny.llama().save_pretrained(tmp_path)
    quantized = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, quantization_config=transformers.BitsAndBytesConfig(load_in_4bit=True),
        device_map="cpu",
    )  # fmt: skip
    with pytest.raises(MethodError, match=f"{method}: decomposes the base's weights, and .* is qu"):
        ftplug.apply(quantized, method)


@pytest.mark.parametrize("make", [lambda: Pissa(r=4, niter=2), lambda: Olora(r=4)])
def test_a_resumed_run_equals_an_uninterrupted_one(make, tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, make(), stop=3, max_steps=8, save_strategy="no"
    )
    assert same(weights(straight.model), weights(resumed.model))


def invoked(model, at):
    """Return a prompt whose rows hold the invocation 5, 6; the last row has none."""
    ids = tiny.inputs(model)["input_ids"].masked_fill(tiny.inputs(model)["input_ids"] == 5, 7)
    ids[:-1, at : at + 2] = torch.tensor([5, 6])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def alora(base):
    return shake(ftplug.apply(copy.deepcopy(base), Alora(alora_invocation_tokens=(5, 6))), 0.5)


def test_alora_works_from_the_invocation_on(tmp_path):
    base = tiny.llama()
    model, batch = alora(base), invoked(base, 3)
    found, expected = logits(model, batch), logits(base, batch)
    assert torch.equal(found[:, :3], expected[:, :3])
    assert torch.equal(found[-1], expected[-1])
    assert not torch.allclose(found[0, 3:], expected[0, 3:])
    ftplug.save(model, tmp_path)
    assert torch.equal(logits(ftplug.load(tiny.llama(), tmp_path), batch), found)
    theirs = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path).eval()
    assert torch.allclose(logits(theirs, batch), found, atol=1e-6)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    tokens = model.generate(**batch, **options)
    assert torch.equal(tokens, theirs.generate(**batch, **options))
    assert torch.equal(tokens, model.generate(**batch, **options, use_cache=False))
    before = weights(model)
    with pytest.raises(MethodError, match="alora: its update depends on where the invocation"):
        ftplug.merge(model)
    assert same(weights(model), before)


def test_alora_under_activation_checkpointing_has_the_same_gradients():
    base = tiny.llama()
    plain, saving = alora(base).train(), alora(base).train()
    checkpoint(saving)
    for model in (plain, saving):
        batch = invoked(base, 3)
        model(**batch, labels=batch["input_ids"]).loss.backward()
    gradients = [[p.grad for p in m.parameters() if p.requires_grad] for m in (plain, saving)]
    for first, second in zip(*gradients, strict=True):
        assert torch.allclose(first, second, atol=1e-7)
        assert first.abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "alora: setting 'alora_invocation_tokens' is required: Token ids"),
        ({"alora_invocation_tokens": []}, "alora: setting 'alora_invocation_tokens' cannot be"),
        ({"use_dora": True}, "alora: use_dora=True does not combine with it: "),
        ({"use_bdlora": {"nblocks": 2}}, "alora: use_bdlora=.* does not combine with it: "),
        ({"target_parameters": ["q.weight"]}, "alora: target_parameters=.* does not combine"),
    ],
)
def test_what_alora_needs_and_what_does_not_combine(settings, message):
    tokens = {} if "required" in message else {"alora_invocation_tokens": [5, 6]}
    with pytest.raises(MethodError, match=message):
        ftplug.apply(tiny.llama(), "alora", **tokens | settings)


def test_alora_reads_tokens_from_left_to_right():
    with pytest.raises(MethodError, match="need a decoder-only language model, not a BertFor"):
        ftplug.apply(tiny.bert(), "alora", alora_invocation_tokens=[5, 6])
