"""What a script had frozen: said where the method trains it, and as it was after a merge."""

import pytest
import tiny
from ftplug_plugins.full import Full
from runs import METHODS

import ftplug
from ftplug.testing.compare import shake
from ftplug.training.script import Launch


def with_a_frozen(*parts):
    """Return a model whose named parts a script has frozen, and how many values that are."""
    model = tiny.bert()
    frozen = [p for n, p in model.named_parameters() if n.startswith(parts)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return model, len(frozen), sum(p.numel() for p in frozen)


def test_full_over_a_frozen_encoder_is_said(caplog):
    model, tensors, values = with_a_frozen("bert.")
    ftplug.apply(model, "full")
    [said] = caplog.messages
    assert f"full: trains {tensors} tensors ({values:,} parameters) that were frozen" in said
    assert "bert.embeddings.word_embeddings.weight and so on" in said
    assert "freeze trains a part" in said
    caplog.clear()
    ftplug.apply(with_a_frozen("bert.")[0], "freeze", layers=0)  # the cure: but for the pooler
    assert "trains 2 tensors" in caplog.text


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_head_is_said_of_every_method(method, caplog):
    ftplug.apply(with_a_frozen("classifier.")[0], method, **METHODS[method])
    assert "trains 2 tensors (66 parameters) that were frozen" in caplog.text
    assert "classifier.weight" in caplog.text
    assert "--no-train-head" in caplog.text
    if method != "full":  # which trains every parameter
        caplog.clear()
        model = with_a_frozen("classifier.")[0]
        ftplug.apply(model, method, train_head=False, **METHODS[method])
        assert caplog.text == ""


@pytest.mark.parametrize("method", ["lora", "bottleneck", "reft", "prompt-tuning"])
def test_what_stays_frozen_is_not_said(method, caplog):
    ftplug.apply(with_a_frozen("bert.")[0], method)
    ftplug.apply(tiny.bert(), method)
    assert caplog.text == ""


def test_loading_says_nothing(tmp_path, caplog):
    ftplug.save(shake(ftplug.apply(tiny.bert(), "full")), tmp_path)
    ftplug.load(with_a_frozen("bert.")[0], tmp_path)
    assert caplog.text == ""


def test_after_a_merge_what_trained_before_trains_again(caplog):
    model, _, _ = with_a_frozen("bert.embeddings.")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    merged = ftplug.merge(ftplug.apply(model, "lora"))
    assert {name: p.requires_grad for name, p in merged.named_parameters()} == before
    ftplug.apply(ftplug.merge(ftplug.apply(tiny.bert(), "lora")), "full")
    assert caplog.text == ""


SCRIPT = """
import sys, tiny
from runs import trainer

model = tiny.bert()
for parameter in model.bert.parameters():
    parameter.requires_grad = False
trainer(model, sys.argv[1], save_strategy="no", max_steps=2).train()
"""


def test_a_script_under_run_is_told(tmp_path, caplog):
    (tmp_path / "freezes.py").write_text(SCRIPT)
    Launch([Full()]).run([str(tmp_path / "freezes.py"), str(tmp_path / "out")])
    assert "that were frozen (requires_grad=False), bert.embeddings" in caplog.text
