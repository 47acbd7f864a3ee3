"""The check of ``ftplug.detach``: what it gives back is the base, in every respect."""

from __future__ import annotations

import copy
import pickle
from typing import Any

from torch import nn

from ftplug.applying import apply
from ftplug.attaching.attachment import require_attachment
from ftplug.attaching.detaching import detach_model
from ftplug.errors import MethodError
from ftplug.structure import named_tensors
from ftplug.testing.case import Case
from ftplug.testing.compare import difference, logits, weights


def detaches(case: Case) -> None:
    """Taken off after training, and off a copy, it leaves the base; it can then be put on again."""
    model = case.base()
    before, answers, expected = _picture(model), logits(model), weights(model)
    apply(model, *case.methods())
    _give_trained_values(case, model)
    trained = logits(model)
    twin = copy.deepcopy(model)
    _detach(case, twin)
    assert logits(model).equal(trained), (
        f"{case}: detaching a copy changed the original: keep nothing that a deepcopy shares"
    )
    run = copy.deepcopy(case.run.model)  # what steps of training left is taken off as well
    for one, what in ((model, "detach"), (twin, "detach of a copy"), (run, "detach of a run")):
        if one is not twin:
            _detach(case, one)
        if one is not run:  # it has dropout, and is in training mode
            _require_same(case, what, before, _picture(one))
        name = difference(expected, weights(one))
        assert name is None, (
            f"{case}: after {what} {name} differs from the base: ftplug gives back the values of "
            "what may train, of buffers, and of what a method exchanged: write over no other"
        )
        assert logits(one).equal(answers), f"{case}: after {what} the base answers differently"
        pickle.dumps(one)
    apply(model, *case.methods())
    name = difference(weights(case.untrained), weights(model))
    assert name is None, f"{case}: put on again, {name} begins otherwise than on a fresh base"


def _give_trained_values(case: Case, model: nn.Module) -> None:
    import torch

    live, trained = named_tensors(model), named_tensors(case.run.model)
    with torch.no_grad():
        for name in require_attachment(model).plan.saved:
            live[name].copy_(trained[name])


def _detach(case: Case, model: nn.Module) -> None:
    try:
        detach_model(model, trainer=_trainer_of(model))
    except MethodError as error:
        raise AssertionError(f"{case}: it cannot be taken off: {error}") from error


def _trainer_of(model: nn.Module) -> Any:
    return getattr(require_attachment(model).facts.surroundings, "trainer", None)


def _picture(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Return of each module what a method can change: class, attributes, hooks and parameters."""
    return {
        name: (
            type(module),
            sorted(vars(module)),
            {key: len(value) for key, value in vars(module).items() if key.endswith("hooks")},
            [
                (key, type(p), p.requires_grad)
                for key, p in module._parameters.items()
                if p is not None
            ],
            module.training,
        )
        for name, module in model.named_modules()
    }


def _require_same(case: Case, what: str, before: Any, after: Any) -> None:
    assert list(before) == list(after), (
        f"{case}: after {what} there are other modules than in the base: "
        f"{sorted(before.keys() ^ after.keys()) or 'in another order'}"
    )
    for name, own in before.items():
        assert own == after[name], (
            f"{case}: after {what} the module {name or 'itself'} is not what it was: "
            f"{_differing(own, after[name])}: change modules in prepare_model or finish_model, "
            "where ftplug takes note"
        )


def _differing(before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    return next(f"{b} became {a}" for b, a in zip(before, after, strict=True) if b != a)[:300]
