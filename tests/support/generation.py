"""Cached against uncached generation: tiny models that generate, and both answers of one.

Everything is in float64, so that what is left of a difference is no rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tiny
import torch
import transformers
from peft_twins import shaken
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

import ftplug
from ftplug import structure

_TEXT: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.HIDDEN,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": tiny.HEADS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GATED = _TEXT | {"num_key_value_heads": 2, "intermediate_size": tiny.INTERMEDIATE}
# One of the two layers sees the last four positions alone.
_SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_BART = {
    **{"vocab_size": tiny.VOCAB, "d_model": tiny.HIDDEN, "max_position_embeddings": 64},
    **{f"{part}_layers": tiny.LAYERS for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": tiny.HEADS for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": tiny.INTERMEDIATE for part in ("encoder", "decoder")},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    **{"forced_eos_token_id": None, "dropout": 0.0},
}


def _built(family: str, head: str, config: Mapping[str, Any]) -> Any:
    cls = getattr(transformers, f"{family}For{head}")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return cls(cls.config_class(**config)).eval()


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "qwen2": tiny.qwen2,
    "gemma3": lambda: _built("Gemma3", "CausalLM", _GATED | _SLIDING | {"head_dim": 8}),
    "opt": lambda: _built(
        "OPT",
        "CausalLM",
        _TEXT | {"ffn_dim": tiny.INTERMEDIATE, "word_embed_proj_dim": 32, "dropout": 0.0},
    ),
    "falcon": lambda: _built("Falcon", "CausalLM", _TEXT),  # its layers say layer_past
    "t5": tiny.t5,
    "bart": lambda: _built("Bart", "ConditionalGeneration", _BART),
}


def trained(model: Any) -> Any:
    """Return it with everything that trains moved: what starts at zero would prove nothing."""
    return shaken(model, 0.1).eval()


def prompt(*tokens: int) -> dict[str, Tensor]:
    """Return two rows, of six and of two tokens: the short one is padded on the left.

    ``tokens`` stand in both.
    """
    ids = torch.tensor([[5, 9, 11, 20, 33, 7], [0, 0, 0, 0, 41, 8]])
    for place, token in enumerate(tokens):
        ids[:, 4 + place] = token
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def generated(model: Any, batch: Mapping[str, Tensor], **options: Any) -> tuple[Tensor, Tensor]:
    """Return five greedy tokens for each row and their logits, (steps, rows, vocabulary)."""
    found = model.generate(
        **batch,
        max_new_tokens=5,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )
    return found.sequences, torch.stack(found.logits)


def gap_of_generation(model: Any, batch: Mapping[str, Tensor], **options: Any) -> float:
    """Return how far the logits are apart with and without a cache; infinite for other tokens."""
    cached, scores = generated(model, batch, use_cache=True, **options)
    plain, expected = generated(model, batch, use_cache=False, **options)
    if not torch.equal(cached, plain):
        return float("inf")
    return float((scores - expected).abs().max())


def gap_of_steps(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Return how far the logits of a row read in pieces are from those of the whole.

    The pieces are three tokens, one, and the rest; each goes on from the cache of those before.
    """
    ids = batch["input_ids"][:1]  # no padding
    given: dict[str, Any] = {}
    name = "input_ids"
    if model.config.is_encoder_decoder:
        encoder = structure.backbone(model).get_encoder()
        given = {"encoder_outputs": encoder(**batch), "attention_mask": batch["attention_mask"]}
        ids, name = batch["input_ids"].clamp(min=3), "decoder_input_ids"
    with torch.no_grad():
        whole = model(**given, **{name: ids}, use_cache=False).logits
        cache = DynamicCache(config=model.config)
        if model.config.is_encoder_decoder:
            cache = EncoderDecoderCache(cache, DynamicCache(config=model.config))
        structure.set_cache(given, cache, model)
        pieces = [
            model(**given, **{name: piece}, use_cache=True).logits
            for piece in ids.split([3, 1, ids.shape[1] - 4], dim=1)
        ]
    return float((torch.cat(pieces, dim=1) - whole).abs().max())


def effect(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Return how far the method moves the first token's logits."""
    with ftplug.disabled(model):
        _, without = generated(model, batch)
    return float((generated(model, batch)[1][0] - without[0]).abs().max())


def cache_in(output: Any) -> Any:
    """Return the cache in a model's output, by the one name for it that the output declares."""
    declared = {field.name for field in dataclasses.fields(output)}
    [name] = declared & set(structure.CACHE_ARGUMENTS)
    return getattr(output, name)
