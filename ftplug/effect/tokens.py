"""Token ids for a probe: drawn from a seed, and short neutral prompts of our own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftplug.effect.pieces import Input

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

COUNT = 8
LENGTH, DECODER_LENGTH = 10, 4
LONGEST_PROMPT = 32  # tokens

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "The opposite of hot is",
    "Once upon a time there was",
    "Two plus two equals",
    "The colour of the sky is",
    "A week has seven days:",
    "To make tea you need",
)
"""Everyday beginnings that say nothing of anybody; their ids are those of the tokenizer given."""


def reads_tokens(model: Any) -> bool:
    """Whether the forward of a transformers model takes token ids."""
    return "input_ids" in inspect.signature(model.forward).parameters


def vocabulary(model: Any) -> int:
    """Return how many token ids a model reads: rows of its embedding, new tokens included."""
    from ftplug.structure import shape_of

    try:
        return int(shape_of(model.get_input_embeddings().weight)[0])
    except (AttributeError, NotImplementedError, IndexError):
        return int(getattr(model.config.get_text_config(), "vocab_size", None) or 100)


def seeded(model: Any, acting: Sequence[int]) -> list[Input]:
    """Return eight inputs of ids from ``numpy.random.RandomState``, a stream that is frozen.

    ``acting`` stand in each, in a row, before the last two ids. The last ids of the vocabulary
    occur (new tokens stand there), ids that the config gives a meaning do not.
    """
    takes = inspect.signature(model.forward).parameters
    return [Input(_arguments(model, takes, _drawn(model, i, acting), i), {}) for i in range(COUNT)]


def _drawn(model: Any, index: int, acting: Sequence[int]) -> list[int]:
    import numpy as np

    size, special = vocabulary(model), special_ids(model.config)
    draw = np.random.RandomState(index)
    ids = _ordinary(draw, LENGTH, size, special)
    if (newest := size - 1 - index) > 0 and newest not in special:
        ids[LENGTH // 2] = newest
    return [*ids[:-2], *acting, *ids[-2:]]


def _ordinary(draw: Any, count: int, size: int, special: set[int]) -> list[int]:
    """Draw ids that the config gives no meaning."""
    found: list[int] = []
    for _ in range(100):
        numbers: NDArray[Any] = draw.randint(0, max(size, 1), 4 * count)
        found += [int(n) for n in numbers if int(n) not in special]
        if len(found) >= count:
            return found[:count]
    return [min(3, size - 1)] * count  # nearly all have one


def _arguments(
    model: Any, takes: Mapping[str, Any], ids: Sequence[int], seed: int
) -> dict[str, Tensor]:
    """Return the stored arguments of one row of ids, as far as the forward takes them."""
    import numpy as np
    import torch

    row = torch.tensor([list(ids)])
    stored = {"input_ids": row}
    if "attention_mask" in takes:
        stored["attention_mask"] = torch.ones_like(row)
    if "token_type_ids" in takes and (getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        stored["token_type_ids"] = (torch.arange(len(ids))[None] >= len(ids) // 2).long()
    if "decoder_input_ids" in takes:
        size, special = vocabulary(model), special_ids(model.config)
        more = _ordinary(np.random.RandomState(100 + seed), DECODER_LENGTH - 1, size, special)
        stored["decoder_input_ids"] = torch.tensor([[decoder_start(model), *more]])
    return stored


def decoder_start(model: Any) -> int:
    """Return the id that a decoder's answer begins with."""
    for config in (getattr(model, "generation_config", None), model.config):
        for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
            if isinstance(found := getattr(config, name, None), int) and found >= 0:
                return found
    return 0


def special_ids(config: Any) -> set[int]:
    """Return the ids that a config gives a meaning (padding, the end, images), inner ones too."""
    return set(_special(config, 0))


def _special(config: Any, depth: int) -> Iterator[int]:
    for name, value in vars(config).items():
        if name.endswith(("token_id", "token_index", "token_ids")):
            values = value if isinstance(value, list | tuple) else [value]
            yield from (each for each in values if isinstance(each, int))
        elif depth < 3 and hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _special(value, depth + 1)


def prompts(model: Any, tokenizer: Any, acting: Sequence[int]) -> list[Input]:
    """Return the eight prompts as this tokenizer reads them; none where it gives no such ids."""
    import torch

    takes = inspect.signature(model.forward).parameters
    found = []
    for text in PROMPTS:
        ids = [*_encoded(tokenizer, text), *acting]
        if not 0 < len(ids) <= LONGEST_PROMPT + len(acting) or max(ids) >= vocabulary(model):
            return []
        stored = _arguments(model, takes, ids, 0)
        if "decoder_input_ids" in stored:
            stored["decoder_input_ids"] = torch.tensor([[decoder_start(model)]])
        found.append(Input(stored, {}, _spelled(tokenizer, ids) if acting else text))
    return found


def _spelled(tokenizer: Any, ids: list[int]) -> str | None:
    """Return the text of ids, where it gives the same ids again."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    return text if _encoded(tokenizer, text) == ids else None


def _encoded(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text; whatever a tokenizer may raise, none."""
    try:
        ids = tokenizer(text)["input_ids"]
    except Exception:
        return []
    return [int(each) for each in ids] if isinstance(ids, list) else []
