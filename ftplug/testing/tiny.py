"""Tiny models of every family, built from configs in milliseconds, and a batch for each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

VOCAB = 64
HIDDEN = 32
INTERMEDIATE = 48
LAYERS = 2
HEADS = 4

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INTERMEDIATE,
}
_TEXT = {"vocab_size": VOCAB, "max_position_embeddings": 64} | _TOKENS | _SIZES


def bert(head: str = "SequenceClassification", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny BERT; ``head`` ends the class's name, ``""`` for the encoder alone."""
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return _build("Bert", head, _TEXT | drop | config)


def roberta(head: str = "SequenceClassification", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny RoBERTa."""
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return _build("Roberta", head, _TEXT | drop | config)


def distilbert(head: str = "SequenceClassification", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny DistilBERT."""
    sizes = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": INTERMEDIATE}
    drop = {"dropout": dropout, "attention_dropout": dropout, "seq_classif_dropout": dropout}
    length = {"vocab_size": VOCAB, "max_position_embeddings": 64}
    return _build("DistilBert", head, length | _TOKENS | sizes | drop | config)


def gpt2(head: str = "LMHeadModel", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny GPT-2."""
    sizes = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INTERMEDIATE}
    drop = {"embd_pdrop": dropout, "attn_pdrop": dropout, "resid_pdrop": dropout}
    length = {"vocab_size": VOCAB, "n_positions": 64}
    return _build("GPT2", head, length | _TOKENS | sizes | drop | config)


def llama(head: str = "CausalLM", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny Llama with grouped-query attention."""
    more = {"num_key_value_heads": 2, "attention_dropout": dropout}
    return _build("Llama", head, _TEXT | more | config)


def qwen2(head: str = "CausalLM", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny Qwen2 with grouped-query attention."""
    more = {"num_key_value_heads": 2, "attention_dropout": dropout}
    return _build("Qwen2", head, _TEXT | more | config)


def qwen3_moe(head: str = "CausalLM", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny Qwen3-MoE: two of four experts for a token, all in one tensor a matrix."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
    more = {"num_key_value_heads": 2, "head_dim": 8, "attention_dropout": dropout}
    return _build("Qwen3Moe", head, _TEXT | experts | more | config)


def t5(head: str = "ConditionalGeneration", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny T5."""
    sizes = {"d_model": HIDDEN, "d_kv": 8, "d_ff": INTERMEDIATE, "num_heads": HEADS}
    more = {"vocab_size": VOCAB, "num_layers": LAYERS, "dropout_rate": dropout}
    tokens = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    return _build("T5", head, sizes | more | tokens | config)


def vit(head: str = "ImageClassification", *, dropout: float = 0.0, **config: Any) -> Any:
    """Return a tiny ViT on images of 16 by 16 in patches of 8 by 8."""
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return _build("ViT", head, _SIZES | {"image_size": 16, "patch_size": 8} | drop | config)


def inputs(model: PreTrainedModel, *, rows: int = 3, length: int = 7, seed: int = 0) -> Any:
    """Return a batch with labels for the model's head; the last text row is padded."""
    draw = torch.Generator().manual_seed(seed)
    head = type(model).__name__
    if "Image" in head:
        size = model.config.image_size
        pixels = torch.randn(rows, 3, size, size, generator=draw)
        return {"pixel_values": pixels, "labels": torch.arange(rows) % 2}
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[-1, length - 2 :] = 0
    ids = torch.randint(3, VOCAB, (rows, length), generator=draw) * mask
    labels = {
        "SequenceClassification": torch.arange(rows) % 2,
        "TokenClassification": ids % 2,
        "LMHeadModel": ids.masked_fill(mask == 0, -100),
        "CausalLM": ids.masked_fill(mask == 0, -100),
        "MaskedLM": ids.masked_fill(mask == 0, -100),
        "ConditionalGeneration": torch.randint(3, VOCAB, (rows, 5), generator=draw),
    }
    batch = {"input_ids": ids, "attention_mask": mask}
    for end, value in labels.items():
        if head.endswith(end):
            batch["labels"] = value
    return batch


def _build(family: str, head: str, config: dict[str, Any]) -> Any:
    """Return the family's model with this head (``""`` for the backbone), drawn under seed 0."""
    name = head if head in ("LMHeadModel", "Model") else f"For{head}" if head else "Model"
    cls = getattr(transformers, f"{family}{name}")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)  # there is none of a GPU to seed
        model = cls(cls.config_class(**config))
    return model.eval()


FAMILIES: Mapping[str, Callable[..., Any]] = {
    "bert": bert,
    "llama": llama,
    "t5": t5,
    "vit": vit,
    "bert-token": functools.partial(bert, "TokenClassification"),
    "roberta": roberta,
    "distilbert": distilbert,
    "gpt2": gpt2,
    "qwen2": qwen2,
    "qwen3-moe": qwen3_moe,
}
