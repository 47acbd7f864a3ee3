"""Whether an adopted model answers as the library does that the adapter is from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug import structure
from ftplug.attaching.disabling import methods_off
from ftplug.attaching.probing import without_a_trace
from ftplug.effect.inputs import called, inputs_for, materialized
from ftplug.effect.outputs import head_answers, own_rows
from ftplug.effect.pieces import Input
from ftplug.errors import ArtifactError, one_line

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ftplug.attaching.attachment import Attachment

TOLERANCE = 1e-6
"""Of float32 answers; those above one in size may differ by as much in proportion."""


@dataclass(frozen=True)
class Compared:
    """The largest difference of all answers to ``inputs``; None where ``note`` says why not."""

    inputs: int = 0
    difference: float | None = None
    note: str = ""


def compared(
    model: nn.Module,
    reference: nn.Module,
    inputs: Sequence[Input],
    where: object,
    *,
    also: Mapping[str, list[int]],
    unheard: Collection[str] = (),
) -> Compared:
    """Ask both the same; raises :class:`ArtifactError` where they answer otherwise.

    ``also`` is what the reference alone must be told, where the inputs do not; ``unheard`` are
    those that the reference does not pass on.
    """
    largest = 0.0
    for given in inputs:
        try:
            theirs = _answers(reference, model, given, also, unheard)
        except Exception as error:  # whatever peft, or a model, says of what it cannot do
            reason = one_line(error)[:200] or type(error).__name__
            return Compared(note=f"peft itself does not answer here ({reason})")
        try:
            ours = _answers(model, model, given, {}, unheard)
        except Exception as error:
            raise _unable(where, error) from error
        if ours.keys() != theirs.keys():
            raise ArtifactError(f"{where}: answers with {sorted(ours)}, in peft {sorted(theirs)}")
        if not ours:
            return Compared(note="its output holds nothing that can be compared")
        largest = max([largest, *(_difference(ours[n], theirs[n], n, where) for n in ours)])
    if not inputs:
        return Compared(note="no inputs are known for this model")
    return Compared(len(inputs), largest)


def refuse_unable(model: nn.Module, attached: Attachment, where: object) -> None:
    """Raise :class:`ArtifactError` where the base takes an input, and fails with its methods on.

    It is asked where no inputs were found for the whole: those of the base alone are tried.
    """
    try:
        with methods_off(model):
            [given, *_] = inputs_for(model, attached)
    except Exception:  # the base takes none of them either: that says nothing of the methods
        return
    try:
        _answers(model, model, given, {}, ())
    except Exception as error:
        raise _unable(where, error) from error


def _unable(where: object, error: Exception) -> ArtifactError:
    reason = one_line(error)[:200] or type(error).__name__
    return ArtifactError(
        f"{where}: put on this base, ftplug's method cannot answer ({reason}): where "
        "PeftModel.from_pretrained can, use that, and please report this"
    )


def _difference(ours: Tensor, theirs: Tensor, name: str, where: object) -> float:
    if ours.shape != theirs.shape:
        raise ArtifactError(
            f"{where}: {name} is {tuple(ours.shape)}, but {tuple(theirs.shape)} in peft"
        )
    off = (ours.float() - theirs.float()).abs()
    size = theirs.float().abs().clamp(min=1.0)
    found = float((off / size).max()) if off.numel() else 0.0
    if not found <= _tolerance(ours.dtype):
        raise ArtifactError(
            f"{where}: put on this base, ftplug's method does not answer as peft's does: {name} "
            f"differs by {found:.2g}: use it by PeftModel.from_pretrained, and please report this"
        )
    return found


def _tolerance(dtype: torch.dtype) -> float:
    import torch

    return max(TOLERANCE, 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 0.0)


def _answers(
    model: nn.Module,
    base: nn.Module,
    given: Input,
    also: Mapping[str, list[int]],
    unheard: Collection[str],
) -> Mapping[str, Tensor]:
    import torch

    heard = {n: v for n, v in materialized(given, base).items() if n not in unheard}
    tensors = {n: torch.tensor(v) for n, v in also.items()} | heard
    headless = structure.backbone(base) is structure.pretrained(base)
    with without_a_trace(model), torch.no_grad():
        output = called(model, tensors)
    found = head_answers(output, has_head=not headless)
    if not found and hasattr(output, "last_hidden_state"):
        found = {"last_hidden_state": output.last_hidden_state}
    return {name: own_rows(value, tensors) for name, value in found.items()}
