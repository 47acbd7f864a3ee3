"""How far a language model has moved from its base, on a text that it was not trained on.

The mean over tokens of KL(base || trained), in nats: 0 for a model that answers as its base does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from ftplug import structure
from ftplug.attaching.disabling import disabled
from ftplug.errors import FtplugError

if TYPE_CHECKING:
    from torch import Tensor, nn

_BLOCK = 128  # tokens that are read at once: logits of a large vocabulary take room
_MOST = 4096  # tokens of a text; the rest of a longer one is not read


def not_measured(model: nn.Module, tokenizer: Any) -> str | None:
    """Return why forgetting is not measured: empty where nobody expects it, None where it is."""
    inner = structure.pretrained(model)
    if not structure.is_language_model(inner):
        return ""
    if getattr(inner.config, "is_encoder_decoder", False):
        return "forgetting is not measured of encoder-decoder models"
    if tokenizer is None:
        return "forgetting is not measured: the Trainer has no tokenizer (processing_class)"
    return None


def mean_divergence(model: nn.Module, tokenizer: Any, text: str) -> float:
    """Return the mean KL divergence per token of a model with a method to its base, in nats.

    At most 4,096 tokens are read, 128 at a time. The model's mode and torch's generators stay.
    """
    inner: Any = structure.pretrained(model)
    ids = tokenizer(text, truncation=True, max_length=_MOST)["input_ids"]
    total, count, was_training = 0.0, 0, model.training
    model.eval()
    try:
        with torch.no_grad():
            for block in _blocks(ids, inner.config):
                given = torch.tensor([block], device=inner.device)
                trained = _answers(model, given)
                with disabled(model):
                    base = _answers(model, given)
                total += float((base.exp() * (base - trained)).sum(-1).double().sum())
                count += len(block)
    finally:
        model.train(was_training)
    if not count:
        raise FtplugError("forgetting: the text to retain has no tokens")
    return total / count


def _blocks(ids: list[int], config: Any) -> Iterator[list[int]]:
    longest = min(_BLOCK, getattr(config, "max_position_embeddings", None) or _BLOCK)
    for start in range(0, len(ids), longest):
        yield ids[start : start + longest]


def _answers(model: nn.Module, ids: Tensor) -> Tensor:
    """Return log probabilities of (tokens, vocabulary)."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return torch.log_softmax(logits.float(), -1)
