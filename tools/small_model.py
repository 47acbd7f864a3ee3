"""Small models of transformers' classes, each built from its own config with smaller numbers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto as auto

VOCABULARY = 128
LARGEST = 20_000_000  # parameters: it builds in about a second

Caps = tuple[tuple[str, int], ...]

# Caps by a number's name; the first that fits counts. Widths apart, as architectures of several
# stages often allow none but their own.
_DEPTHS: Caps = (
    (r"vocab(ulary)?_size(_.*)?|.*_vocab_size|num_embeddings", VOCABULARY),
    (r"n_positions|(max_)?(source_|target_)?positions|(?!num_|learned_).*position_embeddings", 128),
    (r"(.*_)?(n_)?layers?|(.*_)?depths?|(num_|.*_num_|n_)blocks|block_sizes|layer_repeats", 2),
    (r"(.*_)?(n_routed_|n_shared_|num_|local_)*experts", 4),
    (r"(.*_)?(experts_per_tok(en)?|top_?k|moe_k)", 2),
    (r"n_group|topk_group", 1),
    (r"num_queries|num_denoising|.*num_points|max_object_.*", 8),
)
_WIDTHS: Caps = (
    (r"image_size|img_size|pretrain_image_size|input_size", 32),
    (r"patch_size|encoder_stride", 8),
    (r"num_position_embeddings", 16),
    (r"(.*_)?(num_key_value|kv|num_key|num_value)_heads", 2),
    (r"(.*_)?(n_)?heads?", 4),
    (r"qk_head_dim|mamba_d_head|mamba_head_dim", 16),
    (r"rotary_dim", 8),
    (r"(.*_)?(head_dim|d_kv|dim_head|d_head|dim_kv|kv_dim)", 8),
    (r"(.*_)?(intermediate|ffn|mlp|inner|ff|feedforward|feed_forward)(_hidden)?(_size|_dim)?", 64),
    (r"d_ff|d_inner|mlp_hidden|.*intermediate_size.*", 64),
    (r"(.*_)?(lora_rank|state_size|d_state|dt_rank|rank)", 8),
    (r"num_conv_pos_embedding_groups|num_conv_pos_embeddings|.*num_groups", 2),
    (r"sliding_window(_size)?|chunk_size|.*chunk_size|block_size|attention_window", 16),
    (r"(.*_)?(hidden_size|hidden_dim|d_model|n_embd|embed_dim|emb_dim|embedding_size|dim)s?", 32),
    (r"(.*_)?(width|proj_size|projection_dim|output_dim|word_embed_proj_dim|conv_dim)", 32),
)
# Rotations in sections are made for heads of 128 numbers.
_ONE_HEAD: Caps = (
    (r"(.*_)?(n_)?heads?", 1),
    (r"(.*_)?(head_dim|hidden_size|hidden_dim|d_model|embed_dim|dim)", 128),
)


SMALL = _DEPTHS + _WIDTHS


class NotSmallError(Exception):
    """A class that none of the ways here builds small."""


def classes() -> dict[str, str]:
    """Return ``{class: task}``: all of transformers' tables of models for a task, then the bare."""
    tables = [name for name in vars(auto) if re.fullmatch(r"MODEL_FOR_\w+_MAPPING_NAMES", name)]
    late = ("PRETRAINING", "MULTIMODAL_LM", "TEXT_ENCODING", "IMAGE_MAPPING", "BACKBONE")
    tables.sort(key=lambda name: (any(word in name for word in late), name))
    there = set(dir(transformers))  # asked for one by one, each would be imported
    found: dict[str, str] = {}
    for table in [*tables, "MODEL_MAPPING_NAMES"]:
        task = table.removesuffix("_MAPPING_NAMES").removeprefix("MODEL").removeprefix("_FOR_")
        for names in getattr(auto, table).values():
            for name in [names] if isinstance(names, str) else names:
                if name in there:
                    found.setdefault(name, task.lower().replace("_", "-") or "no head")
    return found


def builds(name: str) -> Iterator[Callable[[], PreTrainedModel]]:
    """Yield ways to build a class small: narrow, of one head, shallow alone, as its config is."""
    cls = getattr(transformers, name)
    for caps in (SMALL, _DEPTHS + _ONE_HEAD + _WIDTHS, _DEPTHS, ()):
        yield functools.partial(_build, cls, caps)


def _build(cls: Any, caps: Caps) -> PreTrainedModel:
    config = smaller(cls.config_class(), caps)
    for part in (config, config.get_text_config()):
        part.use_cache = False  # as a Trainer sets it
        if getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = 0
        if getattr(part, "vocab_size", 0) is None:
            part.vocab_size = VOCABULARY
    with torch.device("meta"):
        count = cls(config).num_parameters()
    if count > LARGEST:
        raise NotSmallError(f"{count / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    model: PreTrainedModel = cls(config)
    model.float().train()
    return model


def smaller(config: Any, caps: Caps) -> Any:
    """Return a config of the same class with its numbers capped, and those of configs in it."""
    changed: dict[str, Any] = {}
    for name, value in vars(config).items():
        new = _capped(name, value, caps)
        if new is not value and new != value:
            changed[name.removeprefix("_")] = new
    try:
        return type(config)(**changed)
    except Exception:  # whatever its own checks may raise
        plain = type(config)()
        for name, value in changed.items():
            setattr(plain, name, value)
        return plain


def _capped(name: str, value: Any, caps: Caps) -> Any:
    if isinstance(value, PreTrainedConfig):
        return smaller(value, caps)
    if isinstance(value, dict):
        return {key: _capped(str(key), part, caps) for key, part in value.items()}
    if isinstance(value, list | tuple) and value:
        some = ((r"(.*_)?(n_)?heads(_per_stage)?", 2), *caps) if caps else caps  # of any width
        return type(value)(_capped(name, part, some) for part in value)
    if isinstance(value, bool) or not isinstance(value, int) or not caps:
        return value
    if re.search(r"token_(id|index)$", name):
        return _token(name) if value >= VOCABULARY else value
    cap = next((cap for pattern, cap in caps if re.fullmatch(pattern, name)), value)
    return min(value, cap)


def _token(name: str) -> int:
    """Return a token of the small vocabulary for a special one: the same for the same name."""
    known = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 1}
    kind = re.sub(r"_token_(id|index)$", "", name)
    return known.get(kind, 8 + sum(map(ord, kind.removesuffix("_token"))) % (VOCABULARY - 16))
