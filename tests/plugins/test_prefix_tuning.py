"""Prefix tuning in place: equal to peft, its files read by peft, where it differs or refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from ftplug_plugins.prefix_tuning import PrefixTuning
from peft_twins import (
    fails_in_peft,
    generated,
    gradients,
    left_padded,
    losses,
    quiet,
    shaken,
    tokenizer,
    twins,
)
from runs import CHECKPOINTING, checkpoint, trainer
from transformers import DynamicCache

import ftplug
from ftplug import MethodError, structure

CONFIG = peft.PrefixTuningConfig
LANGUAGE: dict[str, Any] = {
    "gpt2": tiny.gpt2,
    "llama": tiny.llama,  # two key-value heads for four heads
    "qwen2": tiny.qwen2,
}
BASES: dict[str, Any] = LANGUAGE | {
    "bert": tiny.bert,
    "bert-token": lambda **config: tiny.bert("TokenClassification", **config),
    "roberta": tiny.roberta,
    "gpt2-sequence": lambda **config: tiny.gpt2("SequenceClassification", **config),
    "llama-sequence": lambda **config: tiny.llama("SequenceClassification", **config),
    "t5": tiny.t5,
}
HEADS = BASES.keys() - LANGUAGE.keys() - {"t5"}


def cache_in(output: Any) -> Any:
    """Return the cache in a model's output, by the one name for it that the output declares."""
    [name] = {field.name for field in dataclasses.fields(output)} & set(structure.CACHE_ARGUMENTS)
    return getattr(output, name)


def applied(model: Any, **settings: Any) -> Any:
    return ftplug.apply(model, "prefix-tuning", **({"num_virtual_tokens": 5} | settings))


@pytest.mark.parametrize("settings", [{}, {"prefix_projection": True, "encoder_hidden_size": 12}])
@pytest.mark.parametrize("name", BASES)
def test_equals_peft(name, settings, request):
    fails_in_peft(request, name in HEADS)
    base = BASES[name]()
    ours, theirs = twins(base, "prefix-tuning", CONFIG, settings)
    batch = tiny.inputs(base)
    mine, reference = ours(**batch), theirs(**batch)
    torch.testing.assert_close(mine.logits, reference.logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(mine.loss, reference.loss, atol=1e-6, rtol=0)
    for found, expected in zip(gradients(ours, batch), gradients(theirs, batch), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_twenty_steps_equal_peft(name, request):
    fails_in_peft(request, name in HEADS)
    base = BASES[name](dropout=0.1)
    ours, theirs = twins(base, "prefix-tuning", CONFIG)
    batches = [tiny.inputs(base, seed=step) for step in range(20)]
    assert losses(ours, batches) == pytest.approx(losses(theirs, batches), abs=1e-6)


@pytest.mark.parametrize("name", [*LANGUAGE, "t5"])
def test_generates_what_peft_generates(name, request):
    fails_in_peft(request, True)
    ours, theirs = twins(BASES[name](), "prefix-tuning", CONFIG)
    batch = left_padded(ours)
    expected = generated(theirs, batch)
    assert torch.equal(generated(ours, batch), expected)
    # Without a cache peft fails (Llama) or differs (T5).
    assert torch.equal(generated(ours, batch, use_cache=False), expected)
    beams = {"num_beams": 3}
    assert torch.equal(generated(ours, batch, **beams), generated(theirs, batch, **beams))


def test_generates_again_from_a_returned_cache():
    model = applied(tiny.llama())
    prompt = tiny.inputs(model, rows=1)["input_ids"][:, :5]
    whole = generated(model, {"input_ids": prompt}, max_new_tokens=6)
    cache = DynamicCache(config=model.config)
    given = {structure.cache_argument(model): cache, "use_cache": True}
    model(input_ids=prompt[:, :3], **given)
    step = model(input_ids=prompt[:, 3:], **given)
    assert cache_in(step) is cache
    assert cache.get_seq_length() == 5 + 5
    assert step.logits[:, -1].argmax(-1) == whole[:, 5]


@pytest.mark.parametrize("name", BASES)
def test_peft_reads_the_artifact(name, tmp_path, request):
    fails_in_peft(request, name in HEADS)
    base = BASES[name]()
    model = shaken(applied(copy.deepcopy(base)))
    ftplug.save(model, tmp_path)
    assert not (tmp_path / "ftplug.safetensors").exists()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    batch = tiny.inputs(base)
    read = quiet(peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path))
    torch.testing.assert_close(read(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    assert torch.equal(again(**batch).logits, model(**batch).logits)


def test_a_projection_is_saved_whole_in_our_format(tmp_path):
    base = tiny.bert()
    model = shaken(applied(copy.deepcopy(base), prefix_projection=True, encoder_hidden_size=12))
    ftplug.save(model, tmp_path)
    assert not list(tmp_path.glob("adapter_*"))
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    batch = tiny.inputs(base)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    names = [n for n, p in model.named_parameters() if p.requires_grad and "prefix_encoder" in n]
    assert len(names) == 5  # the matrix, and two layers of the MLP


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_text_begins_as_if_it_had_been_read(name, tmp_path):
    base, words = LANGUAGE[name](), list(range(10, 15))
    text = " ".join(f"w{i}" for i in words)
    model = applied(copy.deepcopy(base), init=text, tokenizer=tokenizer(tmp_path))
    ids = tiny.inputs(base)["input_ids"][:2]  # no padding
    read = base(input_ids=torch.cat([torch.tensor([words]).expand(2, -1), ids], dim=1))
    torch.testing.assert_close(model(input_ids=ids).logits, read.logits[:, 5:], atol=1e-5, rtol=0)


def test_a_vocabulary_start_is_drawn_under_the_seed():
    first, second = (applied(tiny.bert(), init="vocab", seed=s) for s in (1, 1))
    other = applied(tiny.bert(), init="vocab", seed=2)
    rows = [m.bert.prefix_encoder.embedding.weight for m in (first, second, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_a_start_from_activations_leaves_the_training_mode_alone():
    model = tiny.bert(dropout=0.1).train()
    model.bert.encoder.layer[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    applied(model, init="vocab")
    after = {name: module.training for name, module in model.named_modules()}
    assert {name: after[name] for name in before} == before


def test_an_artifact_that_began_with_a_text_needs_no_tokenizer(tmp_path):
    base = tiny.llama()
    path = tokenizer(tmp_path / "tokenizer")
    model = applied(copy.deepcopy(base), init="w9 w8", tokenizer=path)
    ftplug.save(model, tmp_path / "artifact")
    for file in (tmp_path / "artifact").iterdir():
        assert path.encode() not in file.read_bytes()
    again = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(again.model.prefix_encoder.embedding.weight,
                       model.model.prefix_encoder.embedding.weight)  # fmt: skip


def test_disabled_and_copies():
    base = tiny.gpt2()
    model = applied(copy.deepcopy(base))
    batch = left_padded(base)
    with ftplug.disabled(model):
        assert torch.equal(model(**batch).logits, base(**batch).logits)
        assert torch.equal(generated(model, batch), generated(base, batch))
    twin, before = copy.deepcopy(model), model(**batch).logits
    shaken(twin)
    assert torch.equal(model(**batch).logits, before)
    assert not torch.equal(twin(**batch).logits, before)


def test_a_cache_is_returned_only_where_one_was_asked_for():
    model = applied(tiny.llama())
    ids = tiny.inputs(model)["input_ids"]
    assert cache_in(model(input_ids=ids)).get_seq_length() == ids.shape[1] + 5
    assert cache_in(model(input_ids=ids, use_cache=False)) is None
    assert len(model(input_ids=ids, use_cache=False, return_dict=False)) == 1
    model.config.use_cache = False  # as the Trainer sets it
    assert cache_in(model(input_ids=ids)) is None


def test_the_prefix_is_float32_beside_a_bf16_base_and_runs_under_autocast():
    model = applied(tiny.llama().to(torch.bfloat16))
    assert model.model.prefix_encoder.embedding.weight.dtype == torch.float32
    assert model(**tiny.inputs(model)).logits.dtype == torch.bfloat16
    model = applied(tiny.llama())
    with torch.autocast("cpu", torch.bfloat16):
        model(**tiny.inputs(model)).loss.backward()
    assert model.model.prefix_encoder.embedding.weight.grad.abs().sum() > 0


def test_keys_of_any_shape_are_found_out():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    falcon = transformers.FalconForCausalLM(transformers.FalconConfig(**sizes))  # one key head
    wide = tiny.t5(d_kv=16, num_heads=3)  # 3 * 16 is not d_model
    deep = tiny.t5(num_decoder_layers=4)
    for model in (falcon, wide, deep):
        assert applied(model.eval())(**tiny.inputs(model)).logits.isfinite().all()


def test_stands_beside_lora(tmp_path):
    base = tiny.bert()
    model = ftplug.apply(copy.deepcopy(base), ["lora", "prefix-tuning"])
    shaken(model)
    ftplug.save(model, tmp_path)
    assert not (tmp_path / "adapter_config.json").exists()  # half an adapter is not for peft
    batch = tiny.inputs(base)
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    assert torch.equal(again(**batch).logits, model(**batch).logits)


MAMBA = transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2)


@pytest.mark.parametrize(
    ("build", "settings", "reason"),
    [
        (tiny.vit, {}, "ViTForImageClassification: ViTModel takes no cache"),
        (tiny.distilbert, {}, "DistilBertModel takes no cache"),
        (lambda: transformers.MambaForCausalLM(MAMBA), {}, "MambaForCausalLM"),
        (lambda: applied(tiny.bert()).bert, {}, "already carries a method"),
        (tiny.bert, {"init": "a text"}, "the model names no tokenizer: set tokenizer="),
        (tiny.bert, {"init": "a text", "tokenizer": "./no"}, "cannot load the tokenizer './no'"),
        (tiny.bert, {"init": "vocab", "prefix_projection": True}, "use init=random"),
        (tiny.t5, {"init": "vocab"}, "share a prefix"),
        (tiny.bert, {"num_virtual_tokens": 0}, "num_virtual_tokens"),
    ],
)
def test_refuses_in_one_line(build, settings, reason):
    with pytest.raises(MethodError, match=reason) as caught:
        applied(build(), **settings)
    assert "\n" not in str(caught.value)


def test_refuses_a_tokenizer_of_another_vocabulary(tmp_path):
    with pytest.raises(MethodError, match="the model has tokens 0 to 7"):
        applied(tiny.llama(vocab_size=8), init="w60 w61", tokenizer=tokenizer(tmp_path))


def test_refuses_activation_checkpointing(tmp_path):
    model = tiny.llama()
    checkpoint(model)
    with pytest.raises(MethodError, match="activation checkpointing drops the cache"):
        applied(model)
    later = applied(tiny.llama())
    checkpoint(later)
    with pytest.raises(MethodError, match="activation checkpointing drops the cache"):
        later.train()(**tiny.inputs(later))
    run = trainer(tiny.bert(), tmp_path, **{CHECKPOINTING: True})
    with pytest.raises(MethodError, match="activation checkpointing drops the cache"):
        ftplug.attach(run, "prefix-tuning")


def test_refuses_what_would_be_silently_wrong():
    model = applied(tiny.gpt2())
    ids = tiny.inputs(model, rows=1, length=8)["input_ids"]
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    with pytest.raises(MethodError, match="packed rows"):
        model(input_ids=ids, position_ids=packed)
    with pytest.raises(MethodError, match="truncate inputs to 59"):
        model(input_ids=ids.repeat(1, 8))
    with pytest.raises(MethodError, match=r"\(batch, length\)"):
        model(input_ids=ids, attention_mask=torch.ones(1, 1, 8, 8))
    with pytest.raises(MethodError, match="static cache"):
        generated(model, {"input_ids": ids}, cache_implementation="static")


def test_settings_name_no_path_of_this_machine(tmp_path):
    method = PrefixTuning(init="w9", tokenizer=tokenizer(tmp_path))
    assert method.settings()["tokenizer"] == ""
    assert PrefixTuning(init="w9", tokenizer="org/name").settings()["tokenizer"] == "org/name"
