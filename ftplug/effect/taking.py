"""A probe's life in a run: the base is asked before it trains, the trained model at each save.

Whatever goes wrong on the way becomes a note in the place of the probe: it costs no trained model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from ftplug import structure
from ftplug.attaching.attachment import Attachment, require_attachment, unwrap_model
from ftplug.attaching.disabling import disabled, methods_off, trunk_of_base
from ftplug.attaching.sharding import is_offloaded, slowest
from ftplug.context import logger
from ftplug.effect.answers import Raw, ask, make_probe
from ftplug.effect.head_inputs import HeadInputs
from ftplug.effect.inputs import inputs_for
from ftplug.effect.pieces import Input
from ftplug.effect.plainly import plainly
from ftplug.effect.probe import Probe
from ftplug.effect.unseen import Called
from ftplug.errors import NotProbed, one_line
from ftplug.structure.shards import numel_of

if TYPE_CHECKING:
    from torch import nn

PATIENCE = 5.0
"""Seconds that one input may take; a slower model gets a note in the place of a probe."""

OFF = "switched off (probe=False)"
ONE_OF_SEVERAL = (
    "one process alone saved a model that several share: save by trainer.save_model() or "
    "ftplug.save(model, …) in all of them to get one"
)
_REREAD = 2**30  # bytes of the base that may be read again where a run was resumed


@dataclass(frozen=True)
class Outcome:
    """The probe of one save, or the reason (``note``) why there is none; what it does not see."""

    probe: Probe | None = None
    note: str = ""
    unseen: tuple[str, ...] = ()
    expected: bool = True  # that there is no probe: nothing went wrong


@dataclass(eq=False)
class Taken:
    """What is kept of the base, on the CPU, from its attach until each save.

    ``later``: an engine is about to share the model among processes, and the forward works only
    then. ``head_inputs`` are kept where the base's own tensors train: at a save they are gone.
    ``ready`` is what all processes made together for the save that follows.
    """

    wanted: bool = True
    later: bool = False
    untouched: bool = True  # nothing has trained yet
    tokenizer: Any = field(default=None, repr=False)
    inputs: tuple[Input, ...] = ()
    base: tuple[Raw, ...] | None = None
    head_inputs: HeadInputs | None = None
    mixed_precision: str | None = None  # in which shards compute, if not in their own type
    missing: Outcome | None = None
    ready: Outcome | None = None


def take_base(
    model: nn.Module,
    *,
    tokenizer: Any = None,
    wanted: bool = True,
    later: bool = False,
    untouched: bool = True,
) -> None:
    """Ask the base of a model that carries methods; call it before the first step.

    ``untouched``: every tensor has the value that it came with. Once taken it stays, for later
    Trainers of the same model too. With ``later`` nothing is asked before :func:`take_base_now`.
    """
    attached = require_attachment(model)
    taken: Taken | None = attached.taken
    if taken is not None and taken.wanted == wanted:
        return
    untouched = untouched and taken is None
    attached.taken = Taken(wanted, later, untouched, tokenizer)
    if wanted and not later:
        _take(model, attached)


def take_base_now(
    model: nn.Module,
    *,
    resumed: bool = False,
    mixed_precision: str | None = None,
    why_not: str = "",
) -> None:
    """Ask the base that :func:`take_base` left for later, in all processes.

    ``resumed``: the values of a checkpoint were read since. ``why_not``: it must not be asked.
    """
    attached = require_attachment(model)
    taken: Taken | None = attached.taken
    if taken is None or not taken.later:
        return
    taken.later = False
    taken.untouched &= not resumed
    taken.mixed_precision = mixed_precision
    if taken.wanted and why_not:
        taken.missing = Outcome(note=why_not)
    elif taken.wanted:
        _take(model, attached)


def finish(model: nn.Module, *, tokenizer: Any = None) -> Outcome:
    """Ask the trained model and return its probe, or why there is none.

    A ``tokenizer`` that was not there when the base was asked gives a language model prompts. All
    processes of a model that they share must call.
    """
    attached = require_attachment(model)
    inner = unwrap_model(model)
    if attached.taken is None:  # loaded, and saved again
        attached.taken = Taken(untouched=False, tokenizer=tokenizer)
    taken: Taken = attached.taken
    if not taken.wanted:
        return Outcome(note=OFF)
    if taken.base is None and taken.missing is None:
        _take(inner, attached)
    elif tokenizer is not None and taken.tokenizer is None:
        _take_with_prompts(inner, attached, tokenizer)
    if (missing := attached.taken.missing) is not None:
        return cast("Outcome", missing)
    try:
        with plainly(inner):
            return _finished(inner, attached, attached.taken)
    except Exception as error:  # a trained model must not be lost to a question about it
        return _none(error)


@contextmanager
def made_together(model: nn.Module) -> Iterator[None]:
    """Make in all processes the probe of a save within the block, which one alone will write."""
    attached = require_attachment(model)
    outcome = finish(model)
    if attached.taken is not None:
        attached.taken.ready = outcome
    try:
        yield
    finally:
        if attached.taken is not None:
            attached.taken.ready = None


def outcome_of(model: nn.Module, *, alone: bool, tokenizer: Any = None) -> Outcome:
    """Return the probe of a save: the one that was made together, or one that is made now.

    ``alone``: the other processes of a model that they share are not here.
    """
    taken: Taken | None = require_attachment(model).taken
    if taken is not None and taken.ready is not None:
        return taken.ready
    if alone and (taken is None or taken.wanted):
        return Outcome(note=ONE_OF_SEVERAL, expected=False)
    return finish(model, tokenizer=tokenizer)


def _take_with_prompts(model: nn.Module, attached: Attachment, tokenizer: Any) -> None:
    """Ask the base again, with prompts, where that can be; else what it said without stays."""
    before: Taken = attached.taken
    before.tokenizer = tokenizer
    if not structure.is_language_model(model) or attached.original_values.elsewhere:
        return
    attached.taken = Taken(untouched=False, tokenizer=tokenizer)
    _take(model, attached)
    if attached.taken.missing is not None:
        attached.taken = before


def _take(model: nn.Module, attached: Attachment) -> None:
    """Ask the base, or keep why it was not asked."""
    inner = unwrap_model(model)
    taken: Taken = attached.taken
    try:
        if is_offloaded(inner):
            raise NotProbed("a part of the model is offloaded: a forward takes too long")
        taken.inputs = inputs_for(inner, attached, taken.tokenizer)
        head_inputs = None
        if _has_head_of_its_own(attached) and _changes_trunk(attached):
            head_inputs = (
                None if structure.is_language_model(inner) else HeadInputs(inner, attached)
            )
        with plainly(inner), _base(inner, attached, taken):
            _require_patience(inner, taken.inputs)
            with head_inputs.recorded(inner) if head_inputs else nullcontext():
                taken.base = ask(inner, taken.inputs)
        taken.head_inputs = head_inputs
    except Exception as error:
        taken.missing = _none(error)


def _base(model: nn.Module, attached: Attachment, taken: Taken) -> AbstractContextManager[None]:
    """Return within what the model answers as its base does."""
    if taken.untouched:
        return methods_off(model)  # without reading the base once more
    elsewhere = set(attached.original_values.elsewhere)
    held = {n: p for n, p in model.named_parameters() if n in elsewhere}
    if sum(numel_of(p) * p.element_size() for p in held.values()) > _REREAD:
        raise NotProbed(
            "the base's own tensors train, and had been trained before this run: the whole base "
            "would have to be read once more to ask it"
        )
    return disabled(model)


def _has_head_of_its_own(attached: Attachment) -> bool:
    """Whether a head trains, and not alone: then its training is all the effect there is."""
    head = set(attached.trained_head)
    return bool(head) and not set(attached.plan.may_train) <= head


def _changes_trunk(attached: Attachment) -> bool:
    """Whether training changes tensors of the trunk that only the base's checkpoint has."""
    return bool(attached.original_values.elsewhere.keys() - set(attached.trained_head))


def _finished(model: nn.Module, attached: Attachment, taken: Taken) -> Outcome:
    assert taken.base is not None
    _require_patience(model, taken.inputs)
    with Called(model, attached.plan) as called:
        trained = ask(model, taken.inputs)
    probe = make_probe(
        taken.inputs,
        taken.base,
        trained,
        _head_only(model, attached, taken),
        dtype=taken.mixed_precision or _dtype(model),
        fresh_head=bool(attached.base.fresh) and not structure.is_language_model(model),
        tokenizer=taken.tokenizer,
    )
    unseen = called.unseen(taken.inputs, trained)
    trains = attached.plan.may_train
    if unseen and set(trains) <= set(unseen) and probe.effect().is_nil:
        kind = type(structure.pretrained(model)).__name__
        note = f"no input that it has for {kind} reaches {trains[0]}, nor what else was trained"
        return Outcome(note=note, expected=False)
    return Outcome(probe, unseen=unseen)


def _head_only(model: nn.Module, attached: Attachment, taken: Taken) -> tuple[Raw, ...]:
    """Return what the head, as it is now, answers on the base's trunk."""
    assert taken.base is not None
    if taken.head_inputs is not None:
        with methods_off(model), taken.head_inputs.given(model):
            raws = ask(model, taken.inputs, continuations=False)
        pairs = zip(raws, taken.base, strict=True)
        return tuple(
            replace(raw, answers={k: v for k, v in raw.answers.items() if k != "hidden"} | hidden)
            for raw, base in pairs
            for hidden in [{k: v for k, v in base.answers.items() if k == "hidden"}]
        )
    if not _has_head_of_its_own(attached) or _changes_trunk(attached):
        return taken.base
    with trunk_of_base(model):
        return ask(model, taken.inputs, continuations=False)


def _require_patience(model: nn.Module, inputs: Sequence[Input]) -> None:
    began = time.perf_counter()
    ask(model, inputs[:1], continuations=False)
    if (seconds := slowest(time.perf_counter() - began, model)) > PATIENCE:
        raise NotProbed(f"one input took {seconds:.0f} s of this model, more than {PATIENCE:.0f}")


def _dtype(model: nn.Module) -> str:
    return str(structure.pretrained(model).dtype).removeprefix("torch.")


def _none(error: Exception) -> Outcome:
    if isinstance(error, NotProbed):
        return Outcome(note=str(error))
    logger.debug("the probe failed", exc_info=error)
    note = f"asking the model failed: {type(error).__name__}: {one_line(error)}"[:500]
    return Outcome(note=note, expected=False)
