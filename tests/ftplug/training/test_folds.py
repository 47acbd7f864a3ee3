"""Cross-validation that gives the model its first values back between the folds."""

import copy
import textwrap

import pytest
import tiny
import torch
from runs import METHODS, logits, same, shake, trainer, weights

import ftplug
from ftplug.discovery import entry
from ftplug.training.script import Launch

ADDING = ["lora", "bottleneck", "prompt-tuning", "prefix-tuning", "reft", "ia3"]
SETTINGS = METHODS | {"reft": {}, "ia3": {}, "bitfit": {}}

SCRIPT = """
    import copy, sys, tiny
    from runs import trainer

    model = tiny.bert()
    {before}
    for fold in range(2):
        model.load_state_dict(initial) if fold else None
        run = trainer(model, sys.argv[1], save_strategy="no", max_steps=4)
        {after}
        run.train_dataset = run.train_dataset[fold * 8:]
        run.train()
    run.save_model(sys.argv[1])
"""
TAKE = "initial = copy.deepcopy(model.state_dict())"


def folds(folder, method, *, early):
    before, after = (TAKE, "pass") if early else ("pass", f"if not fold: {TAKE}")
    (folder / "folds.py").write_text(textwrap.dedent(SCRIPT).format(before=before, after=after))
    configured = entry(method).load().configure(SETTINGS[method])
    Launch([configured]).run([str(folder / "folds.py"), str(folder / "out")])
    return ftplug.load(tiny.bert(), folder / "out")


def second_fold(folder, method):
    """Return the model of a run that sees the second fold alone."""
    bound = trainer(tiny.bert(), folder, save_strategy="no", max_steps=4)
    bound.train_dataset = bound.train_dataset[8:]
    ftplug.attach(bound, method, **SETTINGS[method]).train()
    return bound.model


@pytest.mark.parametrize("method", ADDING)
def test_values_of_the_plain_base_are_refused_with_what_works(tmp_path, method):
    with pytest.raises(ftplug.MethodError, match=rf"what {method} added .*once the first Trainer"):
        folds(tmp_path, method, early=True)
    found = folds(tmp_path, method, early=False)
    assert same(weights(found), weights(second_fold(tmp_path / "alone", method)))


@pytest.mark.parametrize("method", ["full", "freeze", "bitfit"])
def test_a_method_that_adds_nothing_begins_each_fold_anew(tmp_path, method):
    found = folds(tmp_path, method, early=True)
    assert same(weights(found), weights(second_fold(tmp_path / "alone", method)))


@pytest.mark.parametrize("method", ADDING)
def test_nor_does_strict_false_pass_them(method):
    model = tiny.bert()
    initial = copy.deepcopy(model.state_dict())
    ftplug.apply(model, method, **SETTINGS[method])
    with pytest.raises(ftplug.MethodError, match="of the plain base"):
        model.load_state_dict(initial, strict=False)


def test_other_values_load_as_they_did():
    model = ftplug.apply(tiny.bert(), "lora")
    initial, expected = copy.deepcopy(model.state_dict()), logits(model)
    head = {name: torch.ones_like(v) for name, v in initial.items() if "classifier" in name}
    model.load_state_dict(head, strict=False)
    assert bool(model.classifier.weight.eq(1).all())
    model.load_state_dict(initial)
    assert torch.equal(logits(model), expected)
    plain = tiny.bert()
    twin = copy.deepcopy(shake(model, 0.1))
    twin.load_state_dict(initial)
    assert torch.equal(logits(twin), expected)
    assert not torch.equal(logits(model), expected)
    ftplug.merge(model).load_state_dict(plain.state_dict())
    assert torch.equal(logits(model), logits(plain))
