"""BitFit: which biases train, how many they are in the paper's model, and who has none."""

import pytest
import tiny
import torch
import transformers
from ftplug_plugins.bitfit import BitFit
from halves import straight_and_resumed
from runs import logits, same, shake, weights

import ftplug
from ftplug import MethodError

HEAD = {"classifier.weight", "classifier.bias"}


def training(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("make", [tiny.bert, tiny.roberta, tiny.distilbert, tiny.vit])
def test_all_biases_and_the_head_train(make):
    model = make()
    base = weights(model)
    head = set(ftplug.structure.task_head(model))
    ftplug.apply(model, "bitfit")
    assert training(model) == {n for n in base if n.endswith(".bias")} | head
    assert torch.equal(logits(model), logits(make()))
    shake(model)
    assert {n for n, v in weights(model).items() if not v.equal(base[n])} == training(model)


def test_gpt2_and_qwen2_have_biases_and_train_nothing_else():
    for make in (tiny.gpt2, tiny.qwen2):
        names = training(ftplug.apply(make(), "bitfit"))
        assert names
        assert all(name.endswith(".bias") for name in names)


def test_bert_base_trains_what_the_paper_counts():
    # Section 3 of the paper: 0.09 % of BERT-base, 0.08 % of BERT-large; the head not counted.
    shapes = {
        0.09: {},
        0.08: {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
               "intermediate_size": 4096},
    }  # fmt: skip
    for percent, config in shapes.items():
        with torch.device("meta"):
            model = transformers.BertModel(transformers.BertConfig(**config))
        names = set(BitFit().select_trainable(model))
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        trained = sum(sizes[name] for name in names)
        assert round(100 * trained / sum(sizes.values()), 2) == percent
    # q, k, v, attention output, output, two LayerNorms; intermediate; embeddings' LayerNorm, pooler
    assert trained == 24 * (7 * 1024 + 4096) + 2 * 1024


def test_some_modules_alone():
    # The paper's smaller variant: b_q and b_m2.
    settings = {"modules": ["query", "intermediate.dense"]}
    model = ftplug.apply(tiny.bert(), "bitfit", **settings)
    ends = ("query.bias", "intermediate.dense.bias")
    assert training(model) == {n for n in weights(model) if n.endswith(ends)} | HEAD
    beside = ftplug.apply(tiny.bert(), "lora", BitFit(modules=("query",)))
    assert sum(n.endswith("query.base_layer.bias") for n in training(beside)) == tiny.LAYERS


@pytest.mark.parametrize("make", [tiny.t5, tiny.llama, lambda: tiny.llama("SequenceClassification"),
                                  lambda: tiny.t5("SequenceClassification")])  # fmt: skip
def test_a_family_without_biases_is_refused(make):
    model = make()
    with pytest.raises(
        MethodError, match=r"bitfit: .* has no bias: use layernorm or lora"
    ) as found:
        ftplug.apply(model, "bitfit")
    assert "\n" not in str(found.value)
    assert all(p.requires_grad for p in model.parameters())


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(MethodError, match="no module that ends in 'q_proj' has a bias"):
        ftplug.apply(tiny.bert(), "bitfit", modules=["q_proj"])


def test_a_run_moves_the_biases_alone_and_resumes(tmp_path):
    def make():
        return tiny.bert(dropout=0.1)

    straight, resumed = straight_and_resumed(make, tmp_path, BitFit())
    assert same(weights(straight.model), weights(resumed.model))
    before, after = weights(make()), weights(straight.model)
    moved = {name for name in after if not after[name].equal(before[name])}
    # A key's bias shifts all scores of a row alike: no gradient.
    assert moved - HEAD <= {name for name in before if name.endswith(".bias")}
    assert {n for n in training(straight.model) if not n.endswith("key.bias")} <= moved
