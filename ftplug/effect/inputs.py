"""Eight fixed inputs that hold nobody's data, for any model that methods are put on."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ftplug import structure
from ftplug.attaching.attachment import unwrap_model
from ftplug.attaching.probing import without_a_trace
from ftplug.effect import tokens
from ftplug.effect.pieces import MOST_STORED, Drawn, Input
from ftplug.effect.senses import Sense, sights, sounds
from ftplug.errors import NotProbed, NotReplayable, one_line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ftplug.attaching.attachment import Attachment

COUNT = 8
_OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "bbox")
_LENGTHS = (10, 64)  # tokens; some architectures read no short text
_MOST_PLACEHOLDERS = 256  # tokens for an image or sound in each of eight inputs; else in two
_MOST_TRIALS = 60  # forwards
_PLACES = ("ids", "bbox")  # arguments whose numbers are looked up
_SIDES = 3  # of a film: frames, height and width
_PATIENCE, _LONGEST = 2.0, 10.0  # seconds of trials: with one that worked, and without


def inputs_for(
    model: nn.Module, attached: Attachment | None, tokenizer: Any = None
) -> tuple[Input, ...]:
    """Return eight inputs, and eight prompts for a model that writes, by its tokenizer.

    They depend on the model's class, sizes and methods, and on nothing that it was trained on.
    Nothing of the model changes. Raises :class:`ftplug.errors.NotProbed` where the model cannot be
    asked. Of the inputs that it takes those are chosen that run most of its modules: every tower
    that reads something of its own.
    """
    whole = unwrap_model(model)
    inner: Any = structure.pretrained(whole)
    if any(p.device.type == "meta" for p in whole.parameters()):
        raise NotProbed("its values are not in memory: a part of it is on the meta device")
    methods = attached.host.methods if attached else []
    acting = [token for method in methods for token in method.tokens_to_act_on()]
    with without_a_trace(whole):
        kind = _Trials(whole, inner, acting, attached).best()
        found = [kind.input(index) for index in range(COUNT)]
        if tokenizer is not None and tokens.reads_prompts(inner):
            prompts = tokens.prompts(inner, tokenizer, acting)
            if prompts and _answered(whole, _as_methods_need(whole, attached, prompts[:1])[0]):
                found += prompts
        return _as_methods_need(whole, attached, found)


@dataclass(frozen=True)
class _Kind:
    """A kind of input: text of a length, and what stands beside it."""

    inner: Any
    acting: Sequence[int]
    length: int
    senses: tuple[Sense, ...]
    few: bool = False  # in the first two inputs alone, the others are text
    left_out: Sequence[str] = ()  # arguments

    def input(self, index: int) -> Input:
        """Return input ``index``, always the same."""
        senses = () if self.few and index > 1 else self.senses
        stored = tokens.arguments(self.inner, index, self.length, self.acting, senses)
        stored = {n: v for n, v in stored.items() if n not in self.left_out}
        drawn: dict[str, Drawn] = {}
        for sense in senses:
            stored |= sense.stored
            for name, shape in sense.shapes.items():
                drawn[name] = Drawn.of(COUNT * len(drawn) + index, shape, sense.columns)
        return Input(stored, drawn)


class _Trials:
    """The kinds of input that a model may take, tried until one runs all of its modules."""

    def __init__(
        self, whole: nn.Module, inner: Any, acting: Sequence[int], attached: Attachment | None
    ) -> None:
        self.whole, self.inner, self.acting, self.attached = whole, inner, acting, attached
        saved = set(attached.plan.may_train) if attached else None
        self.owners = {
            name
            for name, module in whole.named_modules()
            for own, _ in module.named_parameters(prefix=name, recurse=False)
            if saved is None or own in saved
        }
        self.reason = ""  # why the likeliest input was none

    def best(self) -> _Kind:
        """Return the kind that runs most modules of those that train; the first of equals."""
        found: tuple[int, _Kind | None] = (-1, None)
        began = time.monotonic()
        for kind in itertools.islice(self._kinds(), _MOST_TRIALS):
            if time.monotonic() - began > (_PATIENCE if found[1] else _LONGEST):
                self.reason = self.reason or f"no input was found in {_LONGEST:.0f} s"
                break
            ran = self._ran(kind)
            if ran is not None and len(ran) > found[0]:
                found = len(ran), kind
            if ran is not None and ran >= self.owners:
                break
        if found[1] is None:  # on a slow machine, perhaps, that tried images for long
            found = next(
                ((0, kind) for kind in self._texts() if self._ran(kind) is not None), found
            )
        if found[1] is None:
            reason = self.reason or "it reads neither token ids, pixels nor sound"
            raise NotProbed(f"{type(self.inner).__name__}: {reason}")
        return found[1]

    def _texts(self) -> Iterator[_Kind]:
        """Yield text alone, for a model that reads it."""
        if tokens.reads_tokens(self.inner):
            left_out = self._not_taken()
            for length in _LENGTHS:
                yield _Kind(self.inner, self.acting, length, (), left_out=left_out)

    def _kinds(self) -> Iterator[_Kind]:
        """Yield kinds of input, those that have everything first."""
        takes, alone = tokens.takes(self.inner), not tokens.reads_tokens(self.inner)
        left_out = _OF_TEXT if alone else self._not_taken()
        *with_text, without = itertools.tee(self._senses(takes), len(_LENGTHS) + 1)
        for length, senses in zip(_LENGTHS, with_text, strict=True):
            for beside in senses:
                kind = _Kind(self.inner, self.acting, length, beside, left_out=left_out)
                if beside or not alone:
                    yield kind
                if not alone and sum(each.count for each in beside) > _MOST_PLACEHOLDERS:
                    yield replace(kind, few=True)
            if alone:
                return
        for beside in without:
            if beside:  # it reads the one or the other
                yield _Kind(self.inner, self.acting, 0, beside, left_out=_OF_TEXT)

    def _senses(self, takes: Mapping[str, Any]) -> Iterator[tuple[Sense, ...]]:
        """Yield what stands beside a text, as it is asked for: to count vectors takes time."""
        heard = list(sounds(self.inner, takes))
        for seen in sights(self.inner, takes):
            for sound in heard:
                yield tuple(each for each in (seen, sound) if each.shapes)

    def _not_taken(self) -> list[str]:
        """Return what goes with text and somebody's own class around the model does not take."""
        takes = tokens.takes(self.whole)
        if self.whole is self.inner or any(
            each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values()
        ):
            return []
        return [name for name in _OF_TEXT if name not in takes]

    def _ran(self, kind: _Kind) -> set[str] | None:
        """Return the names of the modules with tensors that ran; None where the forward fails."""
        ran: set[str] = set()
        with contextlib.ExitStack() as hooks:
            for name in self.owners:
                module = self.whole.get_submodule(name)

                def hook(*_: Any, name: str = name) -> None:
                    ran.add(name)

                hooks.callback(module.register_forward_pre_hook(hook).remove)
            try:
                tried = [kind.input(index) for index in ((0, 2) if kind.few else (0,))]
                for given in _as_methods_need(self.whole, self.attached, tried):
                    with without_a_trace(self.whole):  # a failure must not spoil the next trial
                        called(self.whole, materialized(given, self.whole))
            except Exception as error:  # whatever a model says of what it does not read
                said = f"it takes none of the probe's inputs: {one_line(error)[:200]}"
                self.reason = self.reason or said
                return None
        return ran


def _answered(model: nn.Module, given: Input) -> bool:
    try:
        called(model, materialized(given, model))
    except Exception:
        return False
    return True


def _as_methods_need(
    model: nn.Module, attached: Attachment | None, found: Sequence[Input]
) -> tuple[Input, ...]:
    """Let methods add what they need so as to act, by their hook ``probe_inputs``."""
    if attached is None or not attached.host.implements("probe_inputs"):
        return tuple(found)
    inputs = list(found)
    for method, answer in attached.host.call_each(
        "probe_inputs", model=model, inputs=[dict(each.stored) for each in inputs]
    ):
        if answer is None:
            continue
        if len(answer) != len(inputs):
            raise NotProbed(f"{method.name}: probe_inputs gave {len(answer)} for {len(inputs)}")
        inputs = [
            Input(each.stored | _but_ids_of_a_text(each, own), each.drawn, each.text)
            for each, own in zip(inputs, answer, strict=True)
        ]
    return tuple(inputs)


def _but_ids_of_a_text(given: Input, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave a prompt the ids that its text has."""
    return {n: v for n, v in own.items() if given.text is None or n != "input_ids"}


def called(model: nn.Module, tensors: Mapping[str, Tensor]) -> Any:
    """Return a model's output for arguments by name; a pipeline of modules reads them as one."""
    return model(dict(tensors)) if structure.pipeline_of(model) is not None else model(**tensors)


def materialized(given: Input, model: nn.Module) -> dict[str, Tensor]:
    """Return an input's tensors on the model's device, what is drawn in its dtype.

    Raises :class:`ftplug.errors.NotReplayable` where drawn values differ from those that were,
    where a token id is none of this model's, or where sizes are told that its pixels do not have.
    """
    inner: Any = structure.pretrained(unwrap_model(model))
    size = tokens.vocabulary(inner)
    for name in ("input_ids", "decoder_input_ids"):
        ids = given.stored.get(name)
        if ids is not None and (int(ids.min()) < 0 or int(ids.max()) >= size):
            raise NotReplayable(f"the probe's {name} has {int(ids.max())}: this model reads {size}")
    _refuse_sizes(given, size)
    stored = {name: value.to(inner.device) for name, value in given.stored.items()}
    drawn = {
        name: each.values().to(inner.device, inner.dtype) for name, each in given.drawn.items()
    }
    return stored | drawn


def _refuse_sizes(given: Input, vocabulary: int) -> None:
    """Refuse numbers that tell a model of more than there is: it would make room for all of it.

    A grid of 10,000 by 10,000 patches is six numbers in a stranger's file, and gigabytes of places.
    """
    there = sum(math.prod(each.shape) for each in given.drawn.values())
    most = max(there, MOST_STORED)
    for name, value in given.stored.items():
        numbers = value.double().abs()
        if name.endswith(_PLACES):  # each names an entry of a table
            told, most_here = numbers.max(), max(most, vocabulary)
        else:  # a height and a width, or lengths, or a mask
            sides = numbers.shape[-1] <= _SIDES
            told = (numbers.clamp_min(1).prod(-1) if sides else numbers).sum()
            most_here = most
        if float(told) > most_here:
            raise NotReplayable(
                f"the probe's {name} tells of {float(told):.3g} places, where its input has at "
                f"most {most_here:,}"
            )
