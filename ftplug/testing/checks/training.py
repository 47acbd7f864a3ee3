"""Checks of a training run: what moved, what did not, and what came back from its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.plan import scheduled
from ftplug.testing.case import Case, Composed
from ftplug.testing.checks.model import a_loaded_artifact_gives_equal_logits
from ftplug.testing.compare import difference, logits, weights
from ftplug.testing.run import CHECKPOINT, EARLY, STEPS, Run

SCHEDULE_STEPS = 400  # a schedule is a pure function: asking costs no training


def every_tensor_gets_a_gradient(case: Case) -> None:
    """Each tensor that may train gets a gradient; with a schedule, where it ever is active."""
    run = case.run
    silent = _expected_to_train(case) - run.gradients
    assert not silent, (
        f"{case}: {_first(silent, run.initial)} may train but got no gradient in {STEPS} steps: "
        "let the forward use it (no detach, no no_grad), leave it out of select_trainable, or "
        "declare it in `still` where the mathematics makes its gradient zero"
    )


def every_tensor_is_in_the_optimizer(case: Case) -> None:
    """The optimizer holds each tensor that may train once, and no other."""
    run = case.run
    may_train = set(run.attached.plan.may_train)
    for name, count in run.optimized.items():
        assert count == (name in may_train), (
            f"{case}: the optimizer holds {name} {count} times, not {int(name in may_train)}: "
            "build_optimizer must take exactly named_parameters"
        )


def every_tensor_moves(case: Case) -> None:
    """Each tensor that may train has another value after the run."""
    run = case.run
    stuck = _expected_to_train(case) - run.moved
    assert not stuck, (
        f"{case}: {_first(stuck, run.initial)} may train but has the same value after {STEPS} "
        "steps: does the optimizer's step reach it, or does a hook put its old value back?"
    )


def nothing_else_moves(case: Case) -> None:
    """What may not train is bit-equal to the base, after preparation and after the run."""
    run = case.run
    base = weights(case.base())
    for name, old in run.original.items():
        assert run.initial[name].equal(base[old]), (
            f"{case}: prepare_model changed the values of the base's own {old}: leave them as they "
            "are, or `disabled` and verification cannot give the base back"
        )
    parameters = {name for name, _ in run.model.named_parameters()}
    kept = [name for name in run.initial if name in parameters or name in base]
    moved = [name for name in kept if name in run.moved - run.ever_active]
    assert not moved, (
        f"{case}: {moved[0]} ({len(moved)} in all) may not train but changed: name it in "
        "select_trainable, or keep what a method counts or accumulates in a buffer"
    )


def the_schedule_covers_all(case: Case) -> None:
    """A schedule lets each tensor train at some time, and depends on nothing but the step."""
    if not case.host.implements("schedule_trainable"):
        return
    steps = range(SCHEDULE_STEPS)
    forward = _schedule(case, steps)
    for step, active in _schedule(case, steps[::-9]).items():
        assert active == forward[step], (
            f"{case}: schedule_trainable gives another answer for step {step} when it was asked "
            "for other steps before: compute it from its arguments and a seed alone, or a resumed "
            "run trains other layers than the run that was not interrupted"
        )
    may_train = set(require_attachment(case.untrained).plan.may_train)
    never = may_train - set().union(*forward.values())
    assert not never, (
        f"{case}: {_first(never, may_train)} may train but no step of {SCHEDULE_STEPS} lets it: "
        "leave it out of select_trainable"
    )


def the_head_trains_and_is_saved(case: Case) -> None:
    """The task head moves, and a loaded artifact has the trained head."""
    run = case.run
    current = {old: name for name, old in run.original.items()}
    for old in run.attached.base.head:
        assert old in current, (
            f"{case}: the head's {old} is no longer in the model: wrap what it computes "
            "(ftplug.inplace.wrap_forward) instead of replacing it"
        )
        assert current[old] in run.moved, f"{case}: the head's {old} did not train"
    loaded = dict(case.loaded.named_parameters())
    best = dict(run.model.named_parameters())
    for old in run.attached.base.head:
        name = current[old]
        assert name in loaded and torch.equal(loaded[name], best[name]), (
            f"{case}: the artifact does not bring back the trained head's {old}: save_artifact "
            "returns only the names of tensors that its files hold"
        )


def resume_is_bit_equal(case: Case) -> None:
    """A run resumed from the checkpoint halfway ends with the same bits."""
    _require_equal_end(case, case.resumed, CHECKPOINT)


def an_early_resume_is_bit_equal(case: Case) -> None:
    """So does one resumed after the first step, where a warm-up or an average has only begun."""
    _require_equal_end(case, case.resumed_early, EARLY)


def the_best_model_is_restored(case: Case) -> None:
    """With load_best_model_at_end the model answers as it did at the best checkpoint."""
    run = case.run
    assert not torch.equal(run.logits[CHECKPOINT], run.logits[STEPS]), (
        f"{case}: the last {STEPS - CHECKPOINT} steps changed no answer: does it train at all?"
    )
    name = difference(run.weights[CHECKPOINT], weights(run.model))
    assert name is None, (
        f"{case}: {name} is not what it was at the best checkpoint: only parameters that may "
        "train, added ones and persistent buffers are restored"
    )
    assert torch.equal(logits(run.model), run.logits[CHECKPOINT]), (
        f"{case}: the tensors of the best checkpoint are back, but not its answers: something that "
        "the forward uses is an attribute and no tensor; make it a persistent buffer"
    )


def composes(case: Case) -> None:
    """Beside an adapter and a regulariser it trains, resumes and is saved and loaded as one."""
    together = Composed.of(case)
    every_tensor_moves(together)
    resume_is_bit_equal(together)
    a_loaded_artifact_gives_equal_logits(together)


def optimizer_state_is_bounded(case: Case) -> None:
    """The optimizer's state has at most ``case.optimizer_state`` numbers per number that trains.

    With a schedule, per number that trains in that step: what no longer trains is to be dropped.
    """
    run = case.run
    sizes = {name: p.numel() for name, p in run.model.named_parameters()}
    for step, (active, held) in enumerate(zip(run.active, run.state_elements, strict=True), 1):
        trained = sum(sizes[name] for name in active)
        assert held <= case.optimizer_state * trained, (
            f"{case}: after step {step} the optimizer's state holds {held:,} numbers for "
            f"{trained:,} that train, more than {case.optimizer_state:g} each: drop the state of "
            "what no longer trains in on_step, or declare `optimizer_state`"
        )


def _require_equal_end(case: Case, resumed: Run, step: int) -> None:
    """Hold a resumed run against the uninterrupted one."""
    name = difference(case.run.weights[STEPS], resumed.weights[STEPS])
    assert name is None, (
        f"{case}: {name} differs after resuming at step {step} of {STEPS}: keep all that changes "
        "in parameters, buffers, the optimizer's state_dict or run.state, from the first step on, "
        "and draw random numbers from (seed, step) instead of from a generator of your own"
    )


def _expected_to_train(case: Case) -> set[str]:
    """Return what trained in some step, but for tensors that cannot have a gradient."""
    run = case.run
    active = run.ever_active & set(run.attached.plan.may_train)
    return {name for name in active if not case.may_stand_still(name, run.original.get(name))}


def _schedule(case: Case, steps: Iterable[int]) -> dict[int, set[str]]:
    """Ask fresh methods on a fresh model what trains in these steps, in this order."""
    model = case.prepared()
    attached = require_attachment(model)
    return {
        step: scheduled(model, attached.host, attached.plan, step, SCHEDULE_STEPS) for step in steps
    }


def _first(names: Iterable[str], order: Iterable[str]) -> str:
    """Name the first of some tensors, and how many there are."""
    ordered = [name for name in order if name in set(names)]
    return f"{ordered[0]} ({len(ordered)} in all)"
