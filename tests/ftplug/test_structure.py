"""The parts of a model, found by structure on every family."""

import inspect

import pytest
import tiny
import torch
from runs import CHECKPOINTING, checkpoint
from transformers import DynamicCache, TrainingArguments

from ftplug import structure

ENDS = ("weight", "bias")
NEW_VIT = hasattr(tiny.vit().vit, "layers")  # by transformers 5.16
FAMILIES = {
    "bert": (tiny.bert, "bert.", ["bert.encoder.layer"]),
    "roberta": (tiny.roberta, "roberta.", ["roberta.encoder.layer"]),
    "distilbert": (tiny.distilbert, "distilbert.", ["distilbert.transformer.layer"]),
    "gpt2": (tiny.gpt2, "transformer.", ["transformer.h"]),
    "llama": (tiny.llama, "model.", ["model.layers"]),
    "qwen2": (tiny.qwen2, "model.", ["model.layers"]),
    "vit": (tiny.vit, "vit.", ["vit.layers" if NEW_VIT else "vit.encoder.layer"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_backbone_and_layers(family):
    make, prefix, stacks = FAMILIES[family]
    model = make()
    assert structure.backbone_prefix(model) == prefix
    found = structure.layer_stacks(model)
    assert [stack.name for stack in found] == stacks
    assert all(len(stack.layers) == tiny.LAYERS for stack in found)
    assert [name for name, _ in found[0].top(1)] == [f"{stacks[0]}.{tiny.LAYERS - 1}"]
    assert list(found[0].top(0)) == []


def test_an_encoder_decoder_has_two_stacks():
    stacks = structure.layer_stacks(tiny.t5())
    assert [stack.name for stack in stacks] == ["encoder.block", "decoder.block"]


@pytest.mark.parametrize(
    ("model", "head", "task"),
    [
        (tiny.bert(), ["classifier.weight", "classifier.bias"], "text-classification"),
        (
            tiny.distilbert(),
            [f"{name}.{end}" for name in ("pre_classifier", "classifier") for end in ENDS],
            "text-classification",
        ),
        (tiny.llama("SequenceClassification"), ["score.weight"], "text-classification"),
        (tiny.bert("TokenClassification"), ["classifier.weight", "classifier.bias"],
         "token-classification"),
        (tiny.vit(), ["classifier.weight", "classifier.bias"], "image-classification"),
        (tiny.llama(), [], "text-generation"),
        (tiny.gpt2(), [], "text-generation"),
        (tiny.t5(), [], "text2text-generation"),
        (tiny.bert("MaskedLM"), [], "fill-mask"),
        (tiny.bert("Model"), [], "feature-extraction"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "config") else None,
)  # fmt: skip
def test_heads_and_tasks(model, head, task):
    assert structure.task_head(model) == head
    assert structure.task_of(model) == task


def test_the_pooler():
    assert structure.pooler(tiny.bert()) == ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    assert structure.pooler(tiny.llama()) == []


class OldLayer(torch.nn.Module):
    """A layer as models on the Hub have it: with the name that its cache once had."""

    def forward(self, hidden_states, layer_past=None, use_cache=False):
        return hidden_states, layer_past


def test_a_cache_is_passed_by_the_name_that_the_forward_has():
    llama, cache = tiny.llama(), DynamicCache()
    name = structure.cache_argument(llama)
    assert name in inspect.signature(llama.forward).parameters
    assert structure.cache_argument(llama.forward) == name
    assert structure.cache_argument(OldLayer()) == "layer_past"
    assert structure.cache_argument(tiny.vit()) is None
    for old in structure.CACHE_ARGUMENTS:
        arguments = {"use_cache": True, old: cache}
        assert structure.given_cache(arguments) is cache
        structure.set_cache(arguments, "other", llama)
        assert arguments == {"use_cache": True, name: "other"}
    assert structure.given_cache({"use_cache": True, name: None}) is None
    with pytest.raises(KeyError, match="takes no cache"):
        structure.set_cache({}, cache, tiny.vit())


def test_the_cache_leaves_an_output_and_no_old_name_is_asked_for(caplog, monkeypatch):
    from transformers.utils import generic

    said = []
    monkeypatch.setattr(generic.logger, "warning_once", said.append, raising=False)
    model = tiny.llama()
    output = model(**tiny.inputs(model), use_cache=True)
    assert len(output.to_tuple()) == 3
    structure.without_cache(output)
    assert [name for name, value in output.items() if value is not None] == ["loss", "logits"]
    structure.without_cache(output)
    structure.without_cache(tiny.vit()(**tiny.inputs(tiny.vit())))  # has none
    assert said == []


@pytest.mark.parametrize("mask", [0.0, -100.0])
def test_it_is_known_what_the_bias_of_an_attention_holds(mask):
    attention = tiny.t5().encoder.block[0].layer[0].SelfAttention
    states = torch.zeros(1, 3, tiny.HIDDEN)
    given = torch.tensor([0.0, 0.0, mask]).expand(1, 1, 3, 3)
    bias = attention(states, given)[1]
    masked = attention.compute_bias(3, 3) + given
    assert torch.equal(bias, masked) == (mask == 0 or structure.bias_has_mask(attention))


def test_activation_checkpointing_is_asked_for_by_its_name(tmp_path):
    model = tiny.llama()
    assert not structure.activation_checkpointing(model)
    assert structure.activation_checkpointing(checkpoint(model))
    for asked in (False, True):
        args = TrainingArguments(str(tmp_path), report_to=[], **{CHECKPOINTING: asked})
        assert structure.activation_checkpointing(args) is asked
    assert not structure.activation_checkpointing(None)
