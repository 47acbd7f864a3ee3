"""The parts of a model, found by structure on every family."""

import pytest
import tiny

from ftplug import structure

ENDS = ("weight", "bias")
FAMILIES = {
    "bert": (tiny.bert, "bert.", ["bert.encoder.layer"]),
    "roberta": (tiny.roberta, "roberta.", ["roberta.encoder.layer"]),
    "distilbert": (tiny.distilbert, "distilbert.", ["distilbert.transformer.layer"]),
    "gpt2": (tiny.gpt2, "transformer.", ["transformer.h"]),
    "llama": (tiny.llama, "model.", ["model.layers"]),
    "qwen2": (tiny.qwen2, "model.", ["model.layers"]),
    "vit": (tiny.vit, "vit.", ["vit.layers"]),
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
