"""Architectures that do otherwise what a method relies on: left out with a line, or refused."""

import json
import logging

import pytest
import sweep_page
import tiny
import transformers
import trial
from ftplug_plugins.peft_bridge.method import translated
from small_model import NotSmallError

import ftplug
from ftplug import MethodError

SWEPT = json.loads(sweep_page.RESULTS.read_text(encoding="utf-8"))["transformers"]


def fitting(name, task=""):
    """Return a small model of a class, and a batch; skips where another transformers has none."""
    try:
        return trial.fitting(name, task)
    except (AttributeError, NotSmallError) as error:
        if transformers.__version__ == SWEPT:
            raise
        pytest.skip(f"no small {name} in transformers {transformers.__version__}: {error}")


def trained(name, *methods, task="", **settings):
    model, batch = fitting(name, task)
    ftplug.apply(model, *methods, **settings)
    trial.backward(model, batch)
    return model


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "ftplug")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("PhimoeForCausalLM", "router"),
        ("Llama4ForCausalLM", "router"),
        ("DeepseekV4ForCausalLM", "o_a_proj"),
    ],
)
def test_all_linear_leaves_out_what_is_no_plain_linear_layer(name, left, said):
    model = trained(name, "lora", task="causal-lm", target_modules=("all-linear",))
    lora = {n for n, _ in model.named_parameters() if "lora_A" in n}
    assert lora
    assert not any(f".{left}." in n for n in lora)
    assert any("all-linear leaves out" in line and left in line for line in said())


def test_a_router_named_as_a_target_is_refused():
    model, _ = fitting("PhimoeForCausalLM")
    with pytest.raises(MethodError, match=r"router is no plain linear layer but a PhimoeTopKRou"):
        ftplug.apply(model, "lora", target_modules=("router", "q_proj"))


def test_a_plain_linear_layer_with_a_forward_of_its_own_is_adapted():
    model = trained("FalconForCausalLM", "lora", task="causal-lm", target_modules=("all-linear",))
    assert any("dense_h_to_4h.lora_A" in name for name, _ in model.named_parameters())


def test_default_lora_reaches_a_decoder_whose_towers_alone_have_the_usual_names():
    model = trained("Phi4MultimodalForCausalLM", "lora", task="causal-lm")
    grads = {n for n, p in model.named_parameters() if p.grad is not None}
    assert any(n.startswith("model.layers.0.self_attn.qkv_proj.lora_A") for n in grads)


@pytest.mark.parametrize(
    ("name", "method", "reason"),
    [
        ("SwinModel", "reft", "encoder.layers of SwinModel are stages"),
        ("Swinv2Model", "reft", "are stages"),
        ("ConvNextV2Model", "reft", "are stages|found no stack"),  # older ones have none
        ("IBertModel", "bottleneck", "is no plain linear layer"),
        ("IBertModel", "lora", "is no plain linear layer but a QuantLinear"),
        ("IBertModel", "prompt-tuning", "reads no token embeddings"),
        ("FSMTForConditionalGeneration", "prompt-tuning", "reads no token embeddings"),
        ("FSMTForConditionalGeneration", "prefix-tuning", "FSMTDecoder is no model by itself"),
        ("FunnelForMultipleChoice", "prompt-tuning", "positions for 8 tokens"),
        ("FunnelForQuestionAnswering", "prompt-tuning", "reads no token embeddings"),
        ("ProphetNetForConditionalGeneration", "prefix-tuning", "does not go on from its cache"),
        ("ProphetNetForCausalLM", "prompt-tuning", "it gives last_hidden_state_ngram as well"),
        ("CpmAntForCausalLM", "prefix-tuning", "positions for 8 tokens"),
        ("MimiEncoderModel", "prefix-tuning", "reads no tokens"),
        ("Gemma4ForCausalLM", "prompt-tuning", "does not read embeddings token by"),
        ("DeepseekV4ForCausalLM", "prompt-tuning", "does not read embeddings token by"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_applied(name, method, reason):
    model, _ = fitting(name)
    before = {n: (id(p), p.requires_grad) for n, p in model.named_parameters()}
    with pytest.raises(MethodError, match=reason) as refusal:
        ftplug.apply(model, method)
    assert "\n" not in str(refusal.value)
    assert {n: (id(p), p.requires_grad) for n, p in model.named_parameters()} == before


def test_hidden_states_without_a_row_of_tokens_are_refused_in_the_first_forward():
    with pytest.raises(MethodError, match=r"the hidden states of \w+ are \([\d, ]+\), not \(batch"):
        trained("DeepseekV4ForCausalLM", "reft")


@pytest.mark.parametrize("name", ["OpenAIGPTModel", "MobileBertModel", "Qwen3_5TextModel"])
def test_reft_finds_the_width_and_the_states_of_layers(name, said):
    model = trained(name, "reft")
    assert said() == []
    edits = {n: p for n, p in model.named_parameters() if ".reft." in n}
    assert edits
    assert all(p.grad is not None for p in edits.values())


def test_reft_leaves_out_a_tower_that_reads_all_rows_as_one(said):
    name = "Qwen2_5_VLForConditionalGeneration"
    model = trained(name, "reft", task="image-text-to-text")
    assert not any("visual" in n for n, p in model.named_parameters() if p.requires_grad)
    assert any("visual.blocks is left out" in line for line in said())
    model = trained(name, "reft", task="image-text-to-text", positions="all")
    edits = {n: p.grad for n, p in model.named_parameters() if ".reft." in n and "visual" in n}
    assert edits
    assert all(gradient is not None for gradient in edits.values())


def test_an_encoder_whose_config_speaks_of_a_decoder_gives_no_virtual_positions():
    model, batch = fitting("UMT5ForTokenClassification", "token-classification")
    ftplug.apply(model, "prompt-tuning")
    assert model(**batch).logits.shape[:2] == batch["input_ids"].shape


def test_a_head_that_averages_logits_reads_no_virtual_position():
    name = "EuroBertForSequenceClassification"
    model = trained(name, "prompt-tuning", task="sequence-classification")
    assert model.model.prompt_encoder.embedding.weight.grad is not None


@pytest.mark.parametrize("method", ["lora", "loha", "ia3"])
def test_without_usual_names_the_cure_is_named(method):
    model, _ = fitting("FNetModel")
    with pytest.raises(MethodError, match=r"set target_modules, to all-linear or to names \(there"):
        ftplug.apply(model, method)


def test_where_the_attention_gives_no_gradient_at_all_every_tensor_is_named(said):
    model = trained("MraForMaskedLM", "lora", task="masked-lm")
    count = sum(p.requires_grad for p in model.parameters())
    assert count
    assert f"({count} of {count} tensors)" in said()[-1]


@pytest.mark.parametrize("method", ["lora", "loha"])
def test_what_holds_layers_is_no_target_by_a_usual_name(method):
    model, _ = fitting("ZayaModel")
    with pytest.raises(MethodError, match="none of its layers has a usual name"):
        ftplug.apply(model, method)


def test_an_error_of_pefts_that_prints_a_module_is_cut():
    with (
        pytest.raises(
            MethodError, match=r"^lora: BertForSequenceClassification: Linear.* …$"
        ) as cut,
        translated("lora", tiny.bert()),
    ):
        raise ValueError("Linear\n" * 200)
    assert len(str(cut.value)) < 600


@pytest.mark.parametrize("targets", [(), ("all-linear",)])
def test_without_linear_layers_another_method_is_named(targets):
    model, _ = fitting("ResNetForImageClassification")
    with pytest.raises(MethodError, match="it has no linear layers below its head: use bitfit or"):
        ftplug.apply(model, "lora", target_modules=targets)


def test_a_prefix_fits_experts_that_do_not_run_without_values():
    model = trained("Qwen3MoeForCausalLM", "prefix-tuning", task="causal-lm")
    assert model.model.prefix_encoder.embedding.weight.grad is not None
