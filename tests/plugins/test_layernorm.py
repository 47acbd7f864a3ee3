"""LayerNorm tuning: which parameters train in each family, and that nothing else moves."""

import pytest
import tiny
import torch
import transformers
from ftplug_plugins.layernorm import LayerNorm
from halves import straight_and_resumed
from runs import logits, same, weights

import ftplug
from ftplug import MethodError


def training(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


# Names end the same way within a family; T5 has two or three norms per layer and one per stack.
FAMILIES = [
    (tiny.bert, "LayerNorm", 2 * (1 + 2 * tiny.LAYERS)),
    (tiny.distilbert, "ayer_?[nN]orm", 2 * (1 + 2 * tiny.LAYERS)),
    (tiny.gpt2, r"ln_(1|2|f)", 2 * (1 + 2 * tiny.LAYERS)),
    (tiny.llama, "norm", 1 + 2 * tiny.LAYERS),
    (tiny.t5, "layer_norm", 2 + (2 + 3) * tiny.LAYERS),
    (tiny.vit, "layernorm", 2 * (1 + 2 * tiny.LAYERS)),
]


@pytest.mark.parametrize(("make", "pattern", "count"), FAMILIES)
def test_the_norms_of_each_family_train(make, pattern, count):
    import re

    model = make()
    head = set(ftplug.structure.task_head(model))
    ftplug.apply(model, "layernorm")
    names = training(model) - head
    assert len(names) == count
    assert all(re.search(rf"{pattern}[a-z_]*\.(weight|bias)$", name) for name in names)
    assert torch.equal(logits(model), logits(make()))


def test_a_7b_model_trains_65_vectors():
    # Two RMSNorms of 4096 in each of Llama-7B's 32 layers and one behind them: 0.004 % of it.
    config = transformers.LlamaConfig()
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trained = sum(sizes[name] for name in LayerNorm().select_trainable(model))
    assert trained == (2 * 32 + 1) * 4096
    assert round(100 * trained / sum(sizes.values()), 3) == 0.004


def test_a_model_without_norms_is_refused():
    model = tiny.bert()
    for module in list(model.modules()):
        for name, _ in list(module.named_children()):
            if name == "LayerNorm":
                setattr(module, name, torch.nn.Identity())
    with pytest.raises(MethodError, match=r"layernorm: BertFor.* has no LayerNorm or RMSNorm"):
        ftplug.apply(model, "layernorm")


def test_a_run_moves_the_norms_alone_and_resumes(tmp_path):
    def make():
        return tiny.bert(dropout=0.1)

    straight, resumed = straight_and_resumed(make, tmp_path, LayerNorm())
    assert same(weights(straight.model), weights(resumed.model))
    before, after = weights(make()), weights(straight.model)
    assert {n for n in after if not after[n].equal(before[n])} == training(straight.model)
