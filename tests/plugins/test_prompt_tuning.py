"""Prompt tuning in place: equal to peft, its files read by peft, where it differs or refuses."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import peft
import pytest
import tiny
import torch
import transformers
from ftplug_plugins.virtual.placement import placement_of
from peft_twins import (
    SEED,
    fails_in_peft,
    generated,
    gradients,
    left_padded,
    losses,
    shaken,
    task_type,
    tokenizer,
    twins,
)
from runs import checkpoint

import ftplug
from ftplug import MethodError

CONFIG = peft.PromptTuningConfig
LANGUAGE: dict[str, Any] = {"gpt2": tiny.gpt2, "llama": tiny.llama, "qwen2": tiny.qwen2}
BASES: dict[str, Any] = LANGUAGE | {"bert": tiny.bert, "roberta": tiny.roberta, "t5": tiny.t5}
# Here peft's forward fails or differs, and a PeftModel gives n logits more than the input has.
TOKENS: dict[str, Any] = {
    "bert-token": lambda: tiny.bert("TokenClassification"),
    "bert-features": lambda: tiny.bert("Model"),
    "gpt2-token": lambda: tiny.gpt2("TokenClassification"),
}


def applied(model: Any, **settings: Any) -> Any:
    return ftplug.apply(model, "prompt-tuning", **({"num_virtual_tokens": 5} | settings))


def states(output: Any) -> torch.Tensor:
    """Return the logits of a head or the states of a backbone."""
    found: torch.Tensor = output[0] if "logits" not in output else output["logits"]
    return found


@pytest.mark.parametrize("name", BASES)
def test_equals_peft(name):
    base = BASES[name]()
    ours, theirs = twins(base, "prompt-tuning", CONFIG)
    batch = tiny.inputs(base)
    mine, reference = ours(**batch), theirs(**batch)
    expected = reference.logits[:, -mine.logits.shape[1] :]  # peft's has the virtual ones in front
    torch.testing.assert_close(mine.logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(mine.loss, reference.loss, atol=1e-6, rtol=0)
    for found, wanted in zip(gradients(ours, batch), gradients(theirs, batch), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", LANGUAGE)
def test_logits_of_some_positions_give_the_loss_of_their_labels(name):
    """Trainers keep the logits of the answer alone, to save memory."""
    model = applied(LANGUAGE[name]())
    batch = tiny.inputs(model) | {"labels": None}
    labels = batch["input_ids"].clone()
    labels[:, :5] = -100
    whole = model(**batch | {"labels": labels})
    last = labels.shape[1] - 4  # the first label is predicted one position before it
    positions = torch.arange(labels.shape[1]) >= 4
    for kept in (last, positions):
        some = model(**batch | {"labels": labels[:, -last:], "logits_to_keep": kept})
        torch.testing.assert_close(some.logits, whole.logits[:, -last:])
        torch.testing.assert_close(some.loss, whole.loss)


@pytest.mark.parametrize("name", BASES)
def test_twenty_steps_equal_peft(name):
    base = BASES[name](dropout=0.1)
    ours, theirs = twins(base, "prompt-tuning", CONFIG)
    batches = [tiny.inputs(base, seed=step) for step in range(20)]
    assert losses(ours, batches) == pytest.approx(losses(theirs, batches), abs=1e-6)


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_loss_over_given_items_equals_peft(name):
    """The Trainer divides by the number of labels in a whole accumulated batch."""
    ours, theirs = twins(LANGUAGE[name](), "prompt-tuning", CONFIG)
    batch = tiny.inputs(ours) | {"num_items_in_batch": 11}
    torch.testing.assert_close(ours(**batch).loss, theirs(**batch).loss, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", TOKENS)
def test_states_of_the_input_equal_peft(name):
    base = TOKENS[name]()
    ours, theirs = twins(base, "prompt-tuning", CONFIG)
    batch = tiny.inputs(base)
    labels = batch.pop("labels", None)
    mine, reference = states(ours(**batch)), states(theirs(**batch))
    torch.testing.assert_close(mine, reference[:, 5:], atol=1e-6, rtol=0)
    if labels is not None:
        ours(**batch, labels=labels).loss.backward()


@pytest.mark.filterwarnings("ignore:Position ids are not supported:UserWarning")  # peft drops them
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("name", [*LANGUAGE, "t5"])
def test_generates_what_peft_generates(name, use_cache, request):
    fails_in_peft(request, use_cache and name != "t5")
    ours, theirs = twins(BASES[name](), "prompt-tuning", CONFIG)
    batch = left_padded(ours)
    for options in ({}, {"num_beams": 3}):
        mine = generated(ours, batch, use_cache=use_cache, **options)
        assert torch.equal(mine, generated(theirs, batch, use_cache=use_cache, **options))


@pytest.mark.parametrize("name", BASES | TOKENS)
def test_peft_reads_the_artifact(name, tmp_path):
    base = (BASES | TOKENS)[name]()
    model = shaken(applied(copy.deepcopy(base)))
    ftplug.save(model, tmp_path)
    assert not (tmp_path / "ftplug.safetensors").exists()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["task_type"]) == (None, task_type(base))
    batch = tiny.inputs(base)
    if name != "t5":
        batch.pop("labels", None)
    mine = states(model(**batch))
    read = states(peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path)(**batch))
    torch.testing.assert_close(mine, read[:, -mine.shape[1] :], atol=1e-6, rtol=0)
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    assert torch.equal(states(again(**batch)), mine)


@pytest.mark.parametrize("family", [tiny.gpt2, tiny.llama])
def test_a_decoder_classifies_by_the_last_token_that_is_no_padding(family, tmp_path):
    base = family("SequenceClassification")
    ours, theirs = twins(base, "prompt-tuning", CONFIG)
    batch = tiny.inputs(base)
    short = {k: v[-1:, :5] for k, v in batch.items() if k != "labels"}  # the last row, unpadded
    alone = ours(**short).logits
    torch.testing.assert_close(ours(**batch).logits[-1:], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(theirs(**short).logits, alone, atol=1e-6, rtol=0)
    assert not torch.allclose(theirs(**batch).logits[-1:], alone, atol=1e-4)
    ftplug.save(shaken(ours), tmp_path)  # hence not in peft's format
    assert not list(tmp_path.glob("adapter_*"))
    again = ftplug.load(copy.deepcopy(base), tmp_path)
    assert torch.equal(again(**batch).logits, ours(**batch).logits)


def test_the_output_has_the_length_of_the_input():
    model = applied(tiny.llama())
    batch = tiny.inputs(model) | {"output_hidden_states": True}
    output = model(**batch)
    assert {state.shape[1] for state in output.hidden_states} == {7}
    without = model(**{k: v for k, v in batch.items() if k != "labels"})
    torch.testing.assert_close(output.logits, without.logits)
    torch.testing.assert_close(output.hidden_states, without.hidden_states)
    loss, logits, *_ = model(**batch, return_dict=False)
    assert torch.equal(loss, output.loss)
    assert torch.equal(logits, output.logits)
    assert model.model(batch["input_ids"], return_dict=False)[0].shape[1] == 7
    embeds = model.get_input_embeddings()(batch.pop("input_ids"))
    assert torch.equal(model(**batch, inputs_embeds=embeds).logits, output.logits)


def test_answers_are_found_where_they_stand_in_the_input():
    model = applied(tiny.bert("QuestionAnswering"))
    batch = tiny.inputs(model)
    span = torch.tensor([1, 2, 3])
    output = model(**batch, start_positions=span, end_positions=span)
    expected = torch.nn.functional.cross_entropy(output.start_logits, span)
    expected = (expected + torch.nn.functional.cross_entropy(output.end_logits, span)) / 2
    torch.testing.assert_close(output.loss, expected)


def test_segments_are_lengthened_as_peft_does():
    base = tiny.bert()
    ours, theirs = twins(base, "prompt-tuning", CONFIG)
    batch = tiny.inputs(base) | {"token_type_ids": torch.ones(3, 7, dtype=torch.long)}
    torch.testing.assert_close(ours(**batch).logits, theirs(**batch).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("init", ["vocab", "text"])
@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_starts_from_what_peft_starts_from(name, init, tmp_path):
    base = BASES[name]()
    if init == "vocab":
        settings, theirs_only = {"init": "vocab"}, {"prompt_tuning_init": "SAMPLE_VOCAB"}
    else:
        path, text = tokenizer(tmp_path), "w9 w20 w30"  # repeated to five tokens
        settings = {"init": text, "tokenizer": path}
        theirs_only = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": text}
        theirs_only["tokenizer_name_or_path"] = path
    ours, theirs = twins(base, "prompt-tuning", CONFIG, settings, **theirs_only)
    mine = next(p for n, p in ours.named_parameters() if "prompt_encoder" in n)
    expected = theirs.prompt_encoder["default"].embedding.weight
    assert torch.equal(mine, expected)
    if init == "text":
        words = base.get_input_embeddings().weight
        assert torch.equal(mine[:5], words[[9, 20, 30, 9, 20]])


def test_an_artifact_that_began_with_a_text_needs_no_tokenizer(tmp_path):
    base, path = tiny.bert(), tokenizer(tmp_path / "tokenizer")
    model = applied(copy.deepcopy(base), init="w9", tokenizer=path)
    ftplug.save(model, tmp_path / "artifact")
    for file in (tmp_path / "artifact").iterdir():
        assert path.encode() not in file.read_bytes()
    batch = tiny.inputs(base)
    again = ftplug.load(copy.deepcopy(base), tmp_path / "artifact")
    assert torch.equal(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("name", [*LANGUAGE, "t5"])
def test_disabled_and_copies(name):
    base = BASES[name]()
    model = applied(copy.deepcopy(base))
    batch = tiny.inputs(base)
    prompt = {k: v for k, v in batch.items() if k != "labels"}
    with ftplug.disabled(model):
        assert torch.equal(model(**batch).loss, base(**batch).loss)
        assert torch.equal(generated(model, prompt), generated(base, prompt))
    twin, before = copy.deepcopy(model), model(**batch).logits
    shaken(twin)
    assert torch.equal(model(**batch).logits, before)
    assert not torch.equal(twin(**batch).logits, before)


def test_embeddings_narrower_than_the_hidden_states():
    """peft takes hidden_size for the width of a prompt and fails here."""
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    electra = transformers.ElectraForSequenceClassification(
        transformers.ElectraConfig(**sizes, embedding_size=16, intermediate_size=48)
    )
    opt = transformers.OPTForCausalLM(
        transformers.OPTConfig(**sizes, word_embed_proj_dim=16, ffn_dim=48, pad_token_id=0)
    )
    for model in (electra.eval(), opt.eval(), tiny.distilbert()):
        batch = tiny.inputs(model)
        applied(model)(**batch).loss.backward()
        width = model.get_input_embeddings().weight.shape[1]
        rows = next(p for n, p in model.named_parameters() if "prompt_encoder" in n)
        assert rows.shape == (5, width)
        assert rows.grad.abs().sum() > 0


def test_a_head_that_averages_the_input_averages_the_input():
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.ModernBertConfig(
        **sizes, intermediate_size=48, classifier_pooling="mean", pad_token_id=0
    )
    model = transformers.ModernBertForSequenceClassification(config).eval()
    batch = tiny.inputs(model)
    assert applied(model)(**batch).logits.shape == (3, 2)


def test_the_prompt_is_float32_beside_a_bf16_base_and_runs_under_autocast():
    model = applied(tiny.llama().to(torch.bfloat16))
    assert model.model.prompt_encoder.embedding.weight.dtype == torch.float32
    assert model(**tiny.inputs(model)).logits.dtype == torch.bfloat16
    model = applied(tiny.llama())
    with torch.autocast("cpu", torch.bfloat16):
        model(**tiny.inputs(model)).loss.backward()
    assert model.model.prompt_encoder.embedding.weight.grad.abs().sum() > 0


def test_runs_under_activation_checkpointing():
    base = tiny.llama()
    plain, saving = (applied(copy.deepcopy(base), seed=SEED).train() for _ in range(2))
    checkpoint(saving)
    batch = tiny.inputs(base)
    for found, expected in zip(gradients(saving, batch), gradients(plain, batch), strict=True):
        torch.testing.assert_close(found, expected)


def test_stands_beside_lora_and_layer_norms(tmp_path):
    base = tiny.bert()
    batch = tiny.inputs(base)
    for other in ("lora", "freeze"):
        settings = {"freeze.train": ["*.bias"]} if other == "freeze" else {}
        model = ftplug.apply(copy.deepcopy(base), [other, "prompt-tuning"], **settings)
        ftplug.save(shaken(model), tmp_path / other)
        config = tmp_path / other / "adapter_config.json"
        assert not config.exists()  # half an adapter is not for peft to read
        again = ftplug.load(copy.deepcopy(base), tmp_path / other)
        assert torch.equal(again(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize(
    ("build", "settings", "reason"),
    [
        (tiny.vit, {}, "ViTForImageClassification: it reads no token embeddings"),
        (lambda: tiny.llama(output_router_logits=True), {}, "output_router_logits"),
        (tiny.bert, {"init": "a text"}, "the model names no tokenizer: set tokenizer="),
        (tiny.bert, {"init": "a text", "tokenizer": "./no"}, "cannot load the tokenizer './no'"),
        (tiny.bert, {"init": ""}, "'init' cannot be ''"),
    ],
)
def test_refuses_in_one_line(build, settings, reason):
    with pytest.raises(MethodError, match=reason) as caught:
        applied(build(), **settings)
    assert "\n" not in str(caught.value)


def test_refuses_a_second_set_of_virtual_tokens():
    with pytest.raises(MethodError, match="do not combine"):
        ftplug.apply(tiny.llama(), ["prefix-tuning", "prompt-tuning"])


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


@pytest.mark.parametrize(("family", "room"), [(tiny.bert, 64), (tiny.roberta, 63), (tiny.t5, None)])
def test_knows_how_many_positions_there_are(family, room):
    model = applied(family())
    longest = 59 if room is None else room - 5
    ids = torch.full((1, longest), 9)
    extra = {"decoder_input_ids": ids[:, :2]} if room is None else {}
    model(input_ids=ids, **extra)
    if room is not None:
        with pytest.raises(MethodError, match=f"truncate inputs to {longest}"):
            model(input_ids=torch.full((1, longest + 1), 9))


def test_the_placement_is_the_stacks_own_and_pefts_encoder_holds_nothing_but_pefts():
    model = applied(tiny.gpt2())
    twin = copy.deepcopy(model)
    mine, copied = (placement_of(m.transformer) for m in (model, twin))
    assert mine == replace(copied, config=mine.config)
    assert mine.config is not copied.config
    fresh = peft.PromptEmbedding(mine.config, model.get_input_embeddings())
    assert vars(model.transformer.prompt_encoder).keys() == vars(fresh).keys()
    batch = tiny.inputs(model)
    model(**batch)  # within it the output has the virtual positions
    assert not placement_of(model.transformer).in_output
    with pytest.raises(MethodError, match="truncate inputs"):
        model(**{name: value.repeat(1, 20) for name, value in batch.items()})
    assert not placement_of(model.transformer).in_output
