"""A check of methods on the user's own model, with a transformers that ftplug was not tested with.

Two short random inputs are answered with the methods' tensors moved, since many start at zero,
where every mistake is invisible. What the model was before it is afterwards, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.attaching.attachment import Attachment, require_attachment, unwrap_model
from ftplug.attaching.probing import (
    answered,
    generated,
    moved,
    random_inputs,
    trainable_as_now,
    without_a_trace,
)
from ftplug.context import logger
from ftplug.errors import MethodError, one_line
from ftplug.inplace import forwards_disabled

if TYPE_CHECKING:
    from torch import Tensor, nn

_ROUNDING = 1e-4  # of the largest logit; TF32 rounds so


@dataclass(frozen=True)
class Untested:
    """The installed transformers, newer than those ``tested`` (``5.4 to 5.24``).

    ``allowed``: what fails is only warned of.
    """

    installed: str
    tested: str
    allowed: bool = False


def self_check(model: nn.Module, untested: Untested, *, untrained: bool = True) -> None:
    """Hold what the methods on a model promise against what it answers.

    Asked are methods with ``relies_on_internals``. Their tensors must change an answer; a model
    that generates must do so alike with a cache and without; and what promises to start at the base
    must do that, where the model is ``untrained``. Raises :class:`ftplug.MethodError` where one
    fails; the model has its methods then. What the plain model cannot answer is warned of.
    """
    inner = unwrap_model(model)
    attached = require_attachment(inner)
    asked = [method for method in attached.host.methods if method.relies_on_internals]
    if not asked:
        return
    names = " + ".join(method.name for method in asked)
    newer = f"transformers {untested.installed} is newer than those tested ({untested.tested})"
    where = f"{names}: {type(structure.pretrained(inner)).__name__}:"
    with without_a_trace(inner):
        try:
            problem = _Trial(inner, attached).problem(untrained=untrained)
        except _Unanswered as error:
            logger.warning("%s not checked, and %s: %s", where, newer, error)
            return
    if problem is None:
        logger.debug("%s checked, since %s", where, newer)
    elif untested.allowed:
        logger.warning("%s %s: %s (FTPLUG_UNTESTED=allow)", where, problem, newer)
    else:
        raise MethodError(
            f"{where} {problem}: {newer}: install one of those, use lora, or set "
            "FTPLUG_UNTESTED=allow to train all the same"
        )


class _Unanswered(Exception):
    """The model without its methods gives no answer to compare with."""


class _Trial:
    """The questions that one model is asked."""

    def __init__(self, model: nn.Module, attached: Attachment) -> None:
        self.model, self.attached = model, attached
        self.inner = structure.pretrained(model)
        asked = [method for method in attached.host.methods if method.relies_on_internals]
        own = set().union(*(attached.plan.by_method.get(m.name, frozenset()) for m in asked))
        own &= set(attached.plan.added)
        self.moving = [p for name, p in model.named_parameters() if name in own]
        self.generates = structure.is_language_model(model) and self.inner.can_generate()
        tokens = [token for method in asked for token in method.tokens_to_act_on()]
        try:
            inputs = random_inputs(self.inner, tokens)
        except AttributeError as error:  # what it reads is neither tokens nor images
            raise _Unanswered(one_line(error)) from error
        if self.generates:
            self.answer: Callable[..., Tensor] = partial(generated, self.inner, inputs, tokens)
        else:
            self.answer = partial(answered, self.inner, inputs)

    def problem(self, *, untrained: bool) -> str | None:
        """Say what does not hold, and by how much."""
        base = self._plain()
        try:
            if untrained and all(map(_starts_at_base, self.attached.host.methods)):
                apart, largest = _gap(self.answer(), base), _largest(base)
                if not apart <= self._rounding(base):
                    return f"it starts {apart:.2g} from the base's answers (up to {largest:.2g})"
            with moved(self.moving):
                return self._moved_problem(base)
        except _Unanswered:
            raise
        except Exception as error:  # whatever code of another version raises
            return f"it fails where the base does not: {one_line(error)}"

    def _moved_problem(self, base: Tensor) -> str | None:
        without = self.answer()
        if self.moving and without.equal(base):
            return "its tensors change no answer"
        if not self.generates:
            return None
        try:
            cached = self.answer(cached=True)
        except Exception:
            self._plain(cached=True)  # the base may fail there as well
            raise
        apart = _gap(cached, without)
        if apart <= self._rounding(without):
            return None
        own = _gap(self._plain(cached=True), base)
        if not apart > 4 * own:
            return None  # the base is no more exact itself
        return (
            f"generation with a cache is {apart:.2g} from that without (logits up to "
            f"{_largest(without):.2g})"
        )

    def _plain(self, **options: bool) -> Tensor:
        """Ask the model without its methods."""
        with ExitStack() as off:
            off.enter_context(trainable_as_now(self.model))
            off.enter_context(forwards_disabled(self.model))
            for context in self.attached.host.call("disable_model", model=self.model):
                off.enter_context(context)
            try:
                return self.answer(**options)
            except Exception as error:  # a model of speech, or of images beside text
                raise _Unanswered(one_line(error)) from error

    def _rounding(self, answer: Tensor) -> float:
        import torch

        return _largest(answer) * max(_ROUNDING, 4 * torch.finfo(self.inner.dtype).eps)


def _starts_at_base(method: Any) -> bool:
    """Whether the method promises it: what adds nothing changes no answer."""
    return bool(method.kind != "structure" or method.starts_at_base)


def _gap(first: Tensor, second: Tensor) -> float:
    """Return the largest difference; logits of minus infinity in both are equal."""
    apart = (first - second).abs().masked_fill(first == second, 0)
    return float(apart.max())


def _largest(answer: Tensor) -> float:
    return float(answer.abs().masked_fill(answer.isinf(), 0).max())
