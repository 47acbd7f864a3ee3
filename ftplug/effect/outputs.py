"""What a model's output holds: what its head answers, and its backbone's last hidden state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.effect.sampling import SAMPLE

if TYPE_CHECKING:
    from torch import Tensor, nn

# Of transformers' outputs: what is on the way to an answer, or none.
_HIDDEN = ("last_hidden_state", "token_embeddings")
_NO_ANSWERS = ("hidden_state", "attentions", "loss", "cache", "mems", "past_", "encoder_")


def hidden_state(output: Any) -> Tensor | None:
    """Return the last hidden state in an output of a backbone."""
    import torch

    if isinstance(output, Mapping):
        return next((o for n in _HIDDEN if isinstance(o := output.get(n), torch.Tensor)), None)
    found = output[0] if isinstance(output, tuple) and output else output
    return found if isinstance(found, torch.Tensor) and found.is_floating_point() else None


def head_answers(output: Any, *, has_head: bool) -> dict[str, Tensor]:
    """Return what the head answers, by its names: logits, boxes, embeddings, a pooled state.

    Without a head a plain tensor, or the first of a tuple, is the hidden state.
    """
    import torch

    if isinstance(output, Mapping):
        named = dict(output)
    else:
        parts = output if isinstance(output, tuple | list) else (output,)
        named = {str(index): part for index, part in enumerate(parts)}
        if not has_head:
            named.pop("0", None)
    wanted = {
        name: value
        for name, value in named.items()
        if name not in _HIDDEN and not any(part in name for part in _NO_ANSWERS)
    } or {name: value for name, value in named.items() if "last_hidden_state" in name}
    return {
        name: each
        for name, value in wanted.items()
        for each in (value if isinstance(value, tuple | list) else (value,))  # the last feature map
        if isinstance(each, torch.Tensor) and each.is_floating_point() and each.numel()
    }


@contextmanager
def trunk_heard(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the last hidden states that the model's backbone gives within the block."""
    heard: list[Tensor] = []

    def listen(module: Any, arguments: Any, output: Any) -> None:
        if (state := hidden_state(output)) is not None:
            heard.append(state)

    handle = structure.backbone(model).register_forward_hook(listen)
    try:
        yield heard
    finally:
        handle.remove()


def own_rows(answer: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """Leave out what stands before the input's own tokens, as virtual ones may."""
    ids = tensors.get("decoder_input_ids", tensors.get("input_ids"))
    if ids is None or answer.dim() != 3 or answer.shape[1] <= ids.shape[-1]:
        return answer
    return answer[:, -ids.shape[-1] :]


def classes(model: Any, logits: Tensor) -> int:
    """Return the width of rows of logits of which one is right; 0 where they are no such rows."""
    if not type(model).__name__.endswith(("Classification", "MultipleChoice")):
        return 0
    kind = getattr(model.config, "problem_type", None)
    alone = kind in ("regression", "multi_label_classification")
    return 0 if alone or not 2 <= logits.shape[-1] <= SAMPLE else logits.shape[-1]
