"""Token ids for a probe: drawn from a seed, and short neutral prompts of our own."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.effect.pieces import Input

if TYPE_CHECKING:
    from torch import Tensor

    from ftplug.effect.senses import Sense

DECODER_LENGTH = 4
LONGEST_PROMPT = 32  # tokens
_CHOICES = 2  # of a model for multiple choice

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


def takes(model: Any) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a model's forward; of one that hands all on, those it inherits."""
    found: dict[str, inspect.Parameter] = {}
    for cls in type(model).__mro__:
        if "forward" in vars(cls):
            own = inspect.signature(vars(cls)["forward"]).parameters
            found |= {name: each for name, each in own.items() if name not in found}
            if not any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in own.values()):
                break
    return found


def reads_tokens(model: Any) -> bool:
    """Whether the forward of a transformers model takes token ids."""
    return "input_ids" in takes(model)


def writes(model: Any) -> bool:
    """Whether a transformers model generates text, token after token."""
    return structure.is_language_model(model) and bool(model.can_generate())


def reads_prompts(model: Any) -> bool:
    """Whether it goes on from a text: not from sound, nor from an image alone."""
    return writes(model) and reads_tokens(model) and model.main_input_name == "input_ids"


def vocabulary(model: Any) -> int:
    """Return how many token ids a model reads: rows of its embedding, new tokens included."""
    try:
        weight = model.get_input_embeddings().weight
        if weight is not None and len(shape := structure.shape_of(weight)) == 2:
            return int(shape[0])
    except (AttributeError, NotImplementedError):  # it reads no tokens, or has a table of its own
        pass
    return int(getattr(model.config.get_text_config(), "vocab_size", None) or 100)


def arguments(
    model: Any, index: int, length: int, acting: Sequence[int], senses: Sequence[Sense] = ()
) -> dict[str, Tensor]:
    """Return the stored arguments of input ``index``: ids, and what a forward takes beside them.

    The ids are of ``numpy.random.RandomState(index)``, a stream that numpy has frozen. ``acting``
    stand before the last two. The last ids of the vocabulary occur (new tokens stand there); ids
    that the config gives a meaning do not, but for the end of a text, where a head may read, and
    the placeholders of ``senses``.
    """
    import torch

    if "MultipleChoice" not in type(model).__name__:
        return _row(model, index, length, acting, senses)
    rows = [_row(model, _CHOICES * index + i, length, acting, senses) for i in range(_CHOICES)]
    return {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}


def _row(
    model: Any, index: int, length: int, acting: Sequence[int], senses: Sequence[Sense]
) -> dict[str, Tensor]:
    ids = _drawn(model, index, length, acting)
    for sense in senses:
        ids = [ids[0], *[sense.placeholder] * sense.count, *ids[1:]]
    return _arguments(model, ids, index, [each.placeholder for each in senses if each.count])


def _drawn(model: Any, index: int, length: int, acting: Sequence[int]) -> list[int]:
    import numpy as np

    size, special = vocabulary(model), special_ids(model.config)
    ids = _ordinary(np.random.RandomState(index), length, size, special)
    if (newest := size - 1 - index) > 0 and newest not in special:
        ids[length // 2] = newest
    end = getattr(model.config.get_text_config(), "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < size and not writes(model):
        ids[-1] = end  # heads that classify a text may read it there
    return [*ids[:-2], *acting, *ids[-2:]]


def _ordinary(draw: Any, count: int, size: int, special: set[int]) -> list[int]:
    """Draw ids that the config gives no meaning."""
    found: list[int] = []
    for _ in range(100):
        numbers = draw.randint(0, max(size, 1), 4 * count)
        found += [int(n) for n in numbers if int(n) not in special]
        if len(found) >= count:
            return found[:count]
    return [min(3, size - 1)] * count  # nearly all have one


def _arguments(
    model: Any, ids: Sequence[int], seed: int, placeholders: Sequence[int] = ()
) -> dict[str, Tensor]:
    """Return the arguments of one row of ids, as far as the forward takes them."""
    import numpy as np
    import torch

    row, arguments = torch.tensor([list(ids)]), takes(model)
    stored = {"input_ids": row, "attention_mask": torch.ones_like(row)}
    if "input_ids" not in arguments:
        stored = {}
    if (getattr(model.config, "type_vocab_size", 0) or 0) > 1:
        stored["token_type_ids"] = (torch.arange(len(ids))[None] >= len(ids) // 2).long()
    stands = torch.isin(row, torch.tensor(list(placeholders) or [-1])).long()
    stored |= {"mm_token_type_ids": stands, "image_embeds_position_mask": stands}
    page = getattr(model.config, "max_2d_position_embeddings", None) or 1000
    stored["bbox"] = _boxes(np.random.RandomState(seed), len(ids), min(page, 1000))
    stored["decoder_input_ids"] = _decoded(model, seed) if writes(model) else row
    return {name: value for name, value in stored.items() if name in arguments}


def _decoded(model: Any, seed: int) -> Tensor:
    """Return the start of a decoder's answer, and ids after it."""
    import numpy as np
    import torch

    draw, special = np.random.RandomState(100 + seed), special_ids(model.config)
    more = _ordinary(draw, DECODER_LENGTH - 1, vocabulary(model), special)
    return torch.tensor([[decoder_start(model), *more]])


def _boxes(draw: Any, count: int, page: int) -> Tensor:
    """Return where on a page of this width and height each token stands, (1, tokens, 4)."""
    import torch

    corners = torch.tensor(draw.randint(0, page // 2, (1, count, 2)))
    sides = torch.tensor(draw.randint(1, page // 2, (1, count, 2)))
    return torch.cat([corners, corners + sides], -1)


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

    found = []
    for text in PROMPTS:
        ids = [*_encoded(tokenizer, text), *acting]
        if not 0 < len(ids) <= LONGEST_PROMPT + len(acting) or max(ids) >= vocabulary(model):
            return []
        stored = _arguments(model, ids, 0)
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
