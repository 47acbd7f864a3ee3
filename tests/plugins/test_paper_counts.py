"""Trained parameters on the papers' shapes, without weights: the counts that the papers state.

Head excluded, as the papers count. Models are built from configs on the meta device.
"""

import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, RobertaConfig, RobertaModel

import ftplug

BERT_BASE = (BertModel, BertConfig())
ROBERTA_BASE = (RobertaModel, RobertaConfig(vocab_size=50265, max_position_embeddings=514))
GPT2_MEDIUM = (GPT2Model, GPT2Config(n_embd=1024, n_layer=24, n_head=16))


def trained(shape, method, **settings):
    """Return trained and total parameters."""
    cls, config = shape
    with torch.device("meta"):
        model = cls(config)
        total = sum(p.numel() for p in model.parameters())
        ftplug.apply(model, method, **settings)
    return sum(p.numel() for p in model.parameters() if p.requires_grad), total


# method, settings, shape, count, where it is stated
COUNTS = {
    # Hu et al. 2021 (arXiv:2106.09685), table 2: RoBERTa base, LoRA on q and v, r=8: 0.3M.
    "lora": (ROBERTA_BASE, {"r": 8, "target_modules": ("query", "value")}, 12 * 2 * 2 * 8 * 768),
    # Houlsby et al. 2019 (arXiv:1902.00751), section 2.1: 2md + d + m per adapter, two a layer.
    "bottleneck": (
        BERT_BASE,
        {"reduction_factor": 12, "placement": "houlsby"},
        12 * 2 * (2 * 64 * 768 + 768 + 64),
    ),
    # Ben Zaken et al. 2022 (arXiv:2106.10199), table 1: 0.09 % of BERT base.
    "bitfit": (BERT_BASE, {}, 102_912),
    # Liu et al. 2022 (arXiv:2205.05638), section 3.3: one vector for keys and values, one for the
    # feed-forward's inner activation. GPT-2 has q, k and v in one layer: the vector scales all.
    "ia3": (GPT2_MEDIUM, {}, 24 * (3 * 1024 + 4 * 1024)),
    # Kopiczko et al. 2024 (arXiv:2310.11454), table 3: GPT-2 medium, r=1024: 0.098M.
    "vera": (GPT2_MEDIUM, {"r": 1024}, 24 * (3 * 1024 + 1024)),
    # Li and Liang 2021 (arXiv:2101.00190): a key and a value of every layer for each position.
    # (The LoRA paper's table 3 has 0.35M for GPT-2 medium: 7 positions are 0.344M.)
    "prefix-tuning": (GPT2_MEDIUM, {"num_virtual_tokens": 7}, 7 * 2 * 24 * 1024),
}
STATED = {  # as printed in those papers, in the digits they give
    "lora": "0.3M",
    "bitfit": "0.09%",
    "vera": "0.098M",
}


@pytest.mark.parametrize("method", COUNTS)
def test_the_count_of_the_paper(method):
    shape, settings, expected = COUNTS[method]
    count, total = trained(shape, method, **settings)
    assert count == expected
    if stated := STATED.get(method):
        millions = f"{count / 1e6:.{len(stated.partition('.')[2]) - 1}f}M"
        assert stated in (millions, f"{count / total:.2%}")
