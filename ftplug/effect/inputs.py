"""Eight fixed inputs that hold nobody's data, for any model that methods are put on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.attaching.attachment import unwrap_model
from ftplug.effect import tokens
from ftplug.effect.pieces import Input
from ftplug.errors import NotProbed, NotReplayable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.attaching.attachment import Attachment


def inputs_for(
    model: nn.Module, attached: Attachment | None, tokenizer: Any = None
) -> tuple[Input, ...]:
    """Return eight inputs, and eight prompts for a model that writes, by its tokenizer.

    They depend on the model's class, sizes and methods, and on nothing that it was trained on.
    Raises :class:`ftplug.errors.NotProbed` where the model cannot be asked.
    """
    inner: Any = structure.pretrained(unwrap_model(model))
    if any(p.device.type == "meta" for p in inner.parameters()):
        raise NotProbed("its values are not in memory: a part of it is on the meta device")
    methods = attached.host.methods if attached else []
    acting = [token for method in methods for token in method.tokens_to_act_on()]
    if not tokens.reads_tokens(inner):
        raise NotProbed(f"{type(inner).__name__} reads no token ids")
    found = tokens.seeded(inner, acting)
    if tokenizer is not None and writes(inner):
        found += tokens.prompts(inner, tokenizer, acting)
    return tuple(found)


def writes(inner: Any) -> bool:
    """Whether a transformers model generates text, token after token."""
    return structure.is_language_model(inner) and bool(inner.can_generate())


def materialized(given: Input, model: nn.Module) -> dict[str, Tensor]:
    """Return an input's tensors on the model's device, what is drawn in its dtype.

    Raises :class:`ftplug.errors.NotReplayable` where drawn values differ from those that were, or
    where a token id is none of this model's.
    """
    inner: Any = structure.pretrained(unwrap_model(model))
    size = tokens.vocabulary(inner)
    for name in ("input_ids", "decoder_input_ids"):
        ids = given.stored.get(name)
        if ids is not None and (int(ids.min()) < 0 or int(ids.max()) >= size):
            raise NotReplayable(f"the probe's {name} has {int(ids.max())}: this model reads {size}")
    stored = {name: value.to(inner.device) for name, value in given.stored.items()}
    drawn = {
        name: each.values().to(inner.device, inner.dtype) for name, each in given.drawn.items()
    }
    return stored | drawn
