"""Generation with a cache equals generation without, whatever method is on the model.

Models are in float64 where that works, so that rounding is far below the 1e-6 that is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import tiny
import torch
import transformers
from contracts import built_in, contract, relying
from ftplug_plugins.freeze import Freeze
from peft_twins import shaken
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

import ftplug
from ftplug import MethodError, structure

EQUAL = 1e-6
FLOAT32 = {"olora", "pissa", "psoft", "qlora"}  # they decompose or quantize no float64
UNFIT = {
    "alora": ("t5", "bart"),
    "adaption-prompt": ("qwen2", "gemma3", "opt", "falcon", "t5", "bart"),
}
VIRTUAL = [name for name in built_in() if name in relying()]
OTHERS = [name for name in built_in() if name not in relying() and name != "lily"]

TEXT: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": tiny.HIDDEN,
    "num_hidden_layers": tiny.LAYERS,
    "num_attention_heads": tiny.HEADS,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GATED = TEXT | {"num_key_value_heads": 2, "intermediate_size": tiny.INTERMEDIATE}
# One of the two layers sees the last four positions alone.
SLIDING = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
BART = {
    **{"vocab_size": tiny.VOCAB, "d_model": tiny.HIDDEN, "max_position_embeddings": 64},
    **{f"{part}_layers": tiny.LAYERS for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": tiny.HEADS for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": tiny.INTERMEDIATE for part in ("encoder", "decoder")},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2},
    **{"forced_eos_token_id": None, "dropout": 0.0},
}


def built(family: str, head: str, config: Mapping[str, Any]) -> Any:
    cls = getattr(transformers, f"{family}For{head}")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return cls(cls.config_class(**config)).eval()


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "qwen2": tiny.qwen2,
    "gemma3": lambda: built("Gemma3", "CausalLM", GATED | SLIDING | {"head_dim": 8}),
    "opt": lambda: built(
        "OPT",
        "CausalLM",
        TEXT | {"ffn_dim": tiny.INTERMEDIATE, "word_embed_proj_dim": 32, "dropout": 0.0},
    ),
    "falcon": lambda: built("Falcon", "CausalLM", TEXT),  # its layers say layer_past
    "t5": tiny.t5,
    "bart": lambda: built("Bart", "ConditionalGeneration", BART),
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
    """Return four greedy tokens for each row and their logits, (steps, rows, vocabulary)."""
    fixed = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = {"output_logits": True, "return_dict_in_generate": True}
    found = model.generate(**batch, **{"max_new_tokens": 4} | fixed | wanted | options)
    return found.sequences, torch.stack(found.logits)


def gap_of_generation(model: Any, batch: Mapping[str, Tensor], **options: Any) -> float:
    """Return how far the logits are apart with and without a cache; infinite for other tokens."""
    cached, scores = generated(model, batch, use_cache=True, **options)
    plain, expected = generated(model, batch, use_cache=False, **options)
    if not torch.equal(cached, plain):
        return float("inf")
    return float((scores - expected).abs().max())


def in_pieces(
    model: Any, ids: Tensor, lengths: Sequence[int], source: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the logits of rows without padding, read at once, and piece by piece.

    Each piece goes on from the cache of those before. ``source`` is what an encoder reads.
    """
    name, given = "input_ids", {}
    cache: Any = DynamicCache(config=model.config)
    with torch.no_grad():
        if source is not None:
            name, encoder = "decoder_input_ids", structure.backbone(model).get_encoder()
            given = {**source, "encoder_outputs": encoder(**source)}
            del given["input_ids"]
            cache = EncoderDecoderCache(cache, DynamicCache(config=model.config))
        whole = model(**given, **{name: ids}, use_cache=False).logits
        structure.set_cache(given, cache, model)
        pieces = [
            model(**given, **{name: piece}, use_cache=True).logits
            for piece in ids.split(list(lengths), dim=1)
        ]
    return whole, torch.cat(pieces, dim=1)


def gap_of_steps(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Return how far the logits of rows read in pieces of 3, 1 and 2 are from those of the whole.

    Of a decoder alone it is the row without padding.
    """
    if model.config.is_encoder_decoder:
        whole, parts = in_pieces(model, batch["input_ids"].clamp(min=3), (3, 1, 2), batch)
    else:
        whole, parts = in_pieces(model, batch["input_ids"][:1], (3, 1, 2))
    return float((parts - whole).abs().max())


def effect(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Return how far the method moves the first token's logits."""
    with ftplug.disabled(model):
        _, without = generated(model, batch, max_new_tokens=1)
    return float((generated(model, batch, max_new_tokens=1)[1] - without).abs().max())


def applied(name: str, family: str) -> Any:
    """Return a tiny model with the method, moved; None where it does not fit."""
    declared = contract(name)
    model = FAMILIES[family]()
    model = model if name in FLOAT32 else model.double()
    methods = (*declared.get("beside", ()), name)
    try:
        model = ftplug.apply(model, *methods, **declared.get("settings", {}))
    except MethodError:
        return None
    return trained(model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", VIRTUAL)
def test_what_relies_on_the_inside_of_a_model(name, family):
    model = applied(name, family)
    if model is None:
        assert family in UNFIT.get(name, ()), f"{name} refuses {family}"
        return
    batch = prompt(*contract(name).get("settings", {}).get("alora_invocation_tokens", ()))
    assert effect(model, batch) > 1e-4
    assert gap_of_generation(model, batch) <= EQUAL
    assert gap_of_generation(model, batch, num_beams=2) <= EQUAL
    assert gap_of_steps(model, batch) <= EQUAL


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_method(name, family):
    model = applied(name, family)
    if model is None:
        assert family in contract(name).get("unfit", {}), f"{name} refuses {family}"
        return
    assert gap_of_generation(model, prompt()) <= (1e-5 if name in FLOAT32 else EQUAL)


@pytest.mark.methods("lily")
def test_lily_differs_since_its_router_averages_over_the_tokens_of_a_call():
    assert gap_of_generation(applied("lily", "llama"), prompt()) > EQUAL


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"falcon"}))  # its layers give a pair
def test_a_trunk_cache_beside_a_method(family):
    model = ftplug.apply(FAMILIES[family]().double(), Freeze(layers=1), "trunk-cache")
    batch = prompt()
    assert gap_of_generation(trained(model), batch) <= EQUAL
    answers = {"decoder_input_ids": batch["input_ids"]} if model.config.is_encoder_decoder else {}
    model.train()(**batch, **answers)
    model.eval()  # it has stored what it read: the prompt
    assert gap_of_generation(model, batch) <= EQUAL


@pytest.mark.parametrize("pieces", [[4, 5], [5, 4], [6, 3], [1, 1, 1, 1, 1, 4]])
def test_an_invocation_may_come_in_a_later_piece_of_the_prompt(pieces):
    model = FAMILIES["llama"]().double()
    model = trained(ftplug.apply(model, "alora", r=4, alora_invocation_tokens=[53]))
    ids = torch.tensor([[5, 9, 11, 20, 33, 53, 8, 7, 6], [5, 53, 11, 20, 33, 7, 8, 7, 6]])
    whole, parts = in_pieces(model, ids, pieces)
    torch.testing.assert_close(parts, whole, atol=EQUAL, rtol=0)
    with ftplug.disabled(model):
        base, _ = in_pieces(model, ids, pieces)
    active = (whole - base).abs().amax(-1) > 1e-4
    assert active.tolist() == [[False] * 5 + [True] * 4, [False] + [True] * 8]


def test_the_first_tokens_are_known_behind_a_window_that_is_full():
    """A layer with a sliding window sees the mask of its last four keys alone."""
    model = FAMILIES["gemma3"]().double()
    model = trained(ftplug.apply(model, "reft", positions="f3", low_rank_dimension=4))
    ids = torch.tensor([[5, 9, 11, 20, 33, 53, 8, 7, 6]])
    whole, parts = in_pieces(model, ids, [5, 1, 1, 1, 1])
    torch.testing.assert_close(parts, whole, atol=EQUAL, rtol=0)
