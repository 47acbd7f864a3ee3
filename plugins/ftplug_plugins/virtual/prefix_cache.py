"""The cache that a prefix stands in: filled from the encoder, or read from a frozen model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftplug.inplace import in_eval_mode
from ftplug.structure import set_cache
from ftplug_plugins.virtual.trying import LENGTH, some_tokens, tried

if TYPE_CHECKING:
    import torch


def new_cache(stack: Any) -> Any:
    """Return an empty cache for a stack: an encoder-decoder's also holds cross-attention."""
    from transformers import DynamicCache, EncoderDecoderCache

    cache = DynamicCache(config=stack.config)
    crossed = ("is_encoder_decoder", "add_cross_attention")  # the latter: BERT as a decoder
    if not any(getattr(stack.config, name, False) for name in crossed):
        return cache
    return EncoderDecoderCache(cache, DynamicCache(config=stack.config))


def only_attention(cache: Any) -> bool:
    """Whether every layer of a cache keeps keys and values, and nothing else."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    kinds = {type(layer) for layer in own(cache).layers}
    return kinds <= {DynamicLayer, DynamicSlidingWindowLayer}


def cached_shapes(stack: Any) -> set[tuple[int, int]]:
    """Return (heads, head_dim) of the keys and values that the layers of a stack cache.

    Found by running it, since configs name them in many ways; empty for a weightless stack that
    does not run. Raises what a real one raises.
    """
    if (cache := tried(stack, _filled)) is None:
        return set()
    cached = [t for layer in own(cache).layers for t in (layer.keys, layer.values)]
    return {(t.shape[1], t.shape[3]) for t in cached if t is not None}


def _filled(stack: Any) -> Any:
    """Return the cache of a stack that read some tokens, and then as many: some take but one."""
    import torch

    cache, inputs = new_cache(stack), {"input_ids": some_tokens(stack)}
    set_cache(inputs, cache, stack)
    if own(cache) is not cache:
        states = torch.zeros(1, 1, stack.config.hidden_size, device=stack.device, dtype=stack.dtype)
        inputs["encoder_hidden_states"] = states
    for _ in range(2):
        states = stack(**inputs, use_cache=True)[0]
    if states.shape[1] != LENGTH:  # CPM-Ant holds some for a prompt of its own that it cached
        raise ValueError(f"behind a cache it gives {states.shape[1]} positions for {LENGTH} tokens")
    return cache


def own(cache: Any) -> Any:
    """Return the self-attention part of a cache."""
    return getattr(cache, "self_attention_cache", cache)


def fill(cache: Any, encoder: Any, config: Any, batch: int, dtype: torch.dtype) -> None:
    """Put the prefix into an empty cache, once for each row of the batch."""
    pairs = _keys_and_values(encoder, config, batch, dtype)
    step = 2 * config.num_transformer_submodules  # 4 beside cross-attention: peft's layout
    for layer in range(config.num_layers):
        first = layer * step % len(pairs)
        own(cache).update(pairs[first], pairs[first + 1], layer)


def _keys_and_values(encoder: Any, config: Any, batch: int, dtype: torch.dtype) -> Any:
    """Return (layers * 2, batch, heads, num_virtual_tokens, head_dim): keys, values, keys, …"""
    import torch

    device = encoder.embedding.weight.device
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)  # what the layers' own keys will have
    rows = encoder(torch.arange(config.num_virtual_tokens, device=device)).to(dtype)
    pairs = rows.view(len(rows), config.num_layers * 2, config.num_attention_heads, -1)
    return pairs.permute(1, 2, 0, 3)[:, None].expand(-1, batch, -1, -1, -1)


def activations(stack: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Return what a frozen stack caches when it reads (count,) tokens, as the encoder's rows.

    (count, layers * 2 * heads * head_dim): for each layer its keys and then its values.
    """
    import torch

    cache, inputs = new_cache(stack), {"input_ids": tokens[None]}
    set_cache(inputs, cache, stack)
    with torch.no_grad(), in_eval_mode(stack.modules()):
        stack(**inputs, use_cache=True)
    pairs = torch.stack([t[0] for layer in cache.layers for t in (layer.keys, layer.values)])
    return pairs.permute(2, 0, 1, 3).flatten(1).float()
