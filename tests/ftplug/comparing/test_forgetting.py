"""Forgetting: how far a language model's answers are from its base's, on a text."""

import math

import pytest
import tiny
import torch
from cells import ran

import ftplug
from ftplug.comparing.measuring.forgetting import mean_divergence, not_measured
from ftplug.comparing.measuring.retained import retained_text


class Tokenizer:
    """A token a character."""

    def __call__(self, text, *, truncation, max_length):
        return {"input_ids": [ord(c) % tiny.VOCAB for c in text][:max_length]}


TEXT = "The quick brown fox. " * 10
METHODS = ["lora", "full", "freeze", "prompt-tuning", "prefix-tuning", "bottleneck"]


def moved(model, by=0.1):
    """Change what trains, as training would."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=draw)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_forgotten_before_training_and_something_after(method):
    model = ftplug.apply(tiny.llama(), method)
    before = mean_divergence(model, Tokenizer(), TEXT)
    begins_as_the_base = not method.endswith("-tuning")
    assert (before == 0) == begins_as_the_base
    assert mean_divergence(moved(model), Tokenizer(), TEXT) > 1e-4


def test_it_is_the_divergence_that_torch_computes():
    model, base = moved(ftplug.apply(tiny.llama(), "full")), tiny.llama()
    ids = torch.tensor([Tokenizer()(TEXT, truncation=True, max_length=60)["input_ids"]])
    with torch.no_grad():
        trained, known = (m(input_ids=ids).logits[0].log_softmax(-1) for m in (model, base))
    expected = torch.nn.functional.kl_div(trained, known, log_target=True, reduction="batchmean")
    found = mean_divergence(model, Tokenizer(), TEXT[:60])
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_the_model_and_the_generators_are_left_as_they_were():
    model = moved(ftplug.apply(tiny.gpt2(dropout=0.5), "lora", lora_dropout=0.5)).train()
    before = torch.get_rng_state()
    first = mean_divergence(model, Tokenizer(), TEXT)
    assert mean_divergence(model, Tokenizer(), TEXT) == first
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_the_text_that_comes_with_it_is_a_few_hundred_words(tmp_path):
    assert 250 < len(retained_text(None).split()) < 600
    (tmp_path / "mine.txt").write_text("mine")
    assert retained_text(tmp_path / "mine.txt") == "mine"
    with pytest.raises(ftplug.FtplugError, match=r"--retain .*none\.txt"):
        retained_text(tmp_path / "none.txt")


def test_of_whom_it_is_not_measured():
    assert not_measured(tiny.bert(), Tokenizer()) == ""
    assert not_measured(tiny.llama(), Tokenizer()) is None
    assert "no tokenizer" in not_measured(tiny.llama(), None)
    assert "encoder-decoder" in not_measured(tiny.t5(), Tokenizer())


LANGUAGE = """
model = tiny.llama()
data = rows(model, 24)

class Tokenizer:
    def __call__(self, text, *, truncation, max_length):
        return {"input_ids": [ord(c) % tiny.VOCAB for c in text][:max_length]}
    def save_pretrained(self, folder):
        pass

trainer = Trainer(
    model, arguments(), train_dataset=data[:16], eval_dataset=data[16:],
    processing_class=PROCESSING, data_collator=__import__("transformers").default_data_collator,
)
trainer.train()
"""


def test_a_cell_measures_it(tmp_path):
    text = "a text of one's own"
    (tmp_path / "mine.txt").write_text(text)
    told = {"retain": "mine.txt"}
    result = ran(tmp_path, LANGUAGE.replace("PROCESSING", "Tokenizer()"), "full", **told)
    assert (result.status, result.metric) == ("finished", "loss")
    assert result.forgetting > 1e-4
    model = ftplug.load(tiny.llama(), tmp_path / "DIR" / "cells" / result.cell.id / "artifact")
    again = mean_divergence(model, Tokenizer(), text)
    assert math.isclose(again, result.forgetting, rel_tol=1e-4)


def test_without_a_tokenizer_a_note_says_so(tmp_path):
    result = ran(tmp_path, LANGUAGE.replace("PROCESSING", "None"))
    assert (result.status, result.forgetting) == ("finished", None)
    assert "forgetting is not measured: the Trainer has no tokenizer (processing_class)" in (
        result.notes
    )


def test_a_text_that_is_not_there_fails_the_cell(tmp_path):
    code = LANGUAGE.replace("PROCESSING", "Tokenizer()")
    result = ran(tmp_path, code, retain="none.txt")
    assert result.status == "failed"
    assert "--retain" in result.reason
