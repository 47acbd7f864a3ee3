"""A model of which something is held already: recognised as ours, with a cure that works."""

import copy
import gc

import peft
import pytest
import tiny
import torch
from runs import METHODS, logits, shake
from torch import nn

import ftplug
from ftplug.errors import MethodError

SETTINGS = {name: {} for name in ("bitfit", "reft", "ia3", "gradual-unfreezing")} | METHODS


def sharing(first):
    """Return a model that tags tokens with the encoder of one that classifies."""
    second = tiny.bert("TokenClassification")
    second.bert = first.bert
    return second


class Both(nn.Module):
    """Two heads on one encoder, whose losses are summed."""

    def __init__(self):
        super().__init__()
        self.classifies = tiny.bert()
        self.tags = sharing(self.classifies)

    def forward(self, **batch):
        return self.classifies(**batch).loss + self.tags(**tiny.inputs(self.tags)).loss


@pytest.mark.parametrize("method", SETTINGS)
def test_a_second_model_on_an_encoder_that_is_held_is_refused(method):
    first = ftplug.apply(tiny.bert(), method, **SETTINGS[method])
    second = sharing(first)
    names = [name for name, _ in second.named_parameters()]
    with pytest.raises(MethodError, match="BertForSequenceClassification") as said:
        ftplug.apply(second, "lora" if method != "lora" else "bitfit")
    text = str(said.value)
    assert method in text
    assert "\n" not in text
    assert "peft adapter" not in text
    assert "copy.deepcopy" in text
    assert [name for name, _ in second.named_parameters()] == names


def test_the_cures_that_the_refusal_names_work(tmp_path):
    own = sharing(first := tiny.bert())
    own.bert = copy.deepcopy(first.bert)
    ftplug.apply(first, "lora")
    ftplug.apply(own, "lora")

    shake(first, 0.1)
    merged = ftplug.merge(first)
    second = sharing(merged)
    before = logits(second)
    ftplug.apply(second, "lora")
    torch.testing.assert_close(logits(second), before)

    both = ftplug.apply(Both(), "lora", r=2)
    both(**tiny.inputs(both.classifies)).backward()
    trained = [name for name, p in both.named_parameters() if p.requires_grad]
    assert {name.partition(".")[0] for name in trained} == {"classifies", "tags"}
    shake(both, 0.1)
    ftplug.save(both, tmp_path)
    again = ftplug.load(Both(), tmp_path)
    batch = tiny.inputs(again.classifies)
    assert torch.equal(again(**batch), both.eval()(**batch))


def test_two_models_that_train_the_same_of_what_they_share_are_let_be():
    first = ftplug.apply(tiny.bert(), "full")
    ftplug.apply(sharing(first), "full")
    with pytest.raises(MethodError, match=r"shared with a Bert.*carries full, and only one"):
        ftplug.apply(sharing(first), "freeze", layers=1)


def test_a_part_of_a_model_that_carries_a_method_is_named_as_that():
    model = ftplug.apply(tiny.bert(), "lora")
    whole = "a part of a BertForSequenceClassification that already carries a method"
    with pytest.raises(MethodError, match=whole):
        ftplug.apply(model.bert, "lora")


def test_what_a_model_left_behind_that_is_gone_is_still_ours():
    encoder = ftplug.apply(tiny.bert(), "ia3").bert
    gc.collect()
    second = tiny.bert("TokenClassification")
    second.bert = encoder
    with pytest.raises(MethodError, match=r"bert already carries a method that ftplug put"):
        ftplug.apply(second, "lora")


def test_a_script_s_own_adapter_is_told_from_ours():
    wrapped = peft.get_peft_model(tiny.bert(), peft.LoraConfig(target_modules=["query"]))
    with pytest.raises(MethodError, match=r"already carries a peft adapter of the script's own"):
        ftplug.apply(wrapped, "lora")
    ftplug.apply(wrapped.unload(), "lora")


def test_another_method_or_setting_on_a_model_says_what_differs():
    model = ftplug.apply(tiny.bert(), "lora", r=4)
    with pytest.raises(MethodError, match=r"carries lora: to train bitfit .*'lora', 'bitfit'"):
        ftplug.apply(model, "bitfit")
    with pytest.raises(MethodError, match=r"other settings \(r=4 there, 8 asked for\)"):
        ftplug.apply(model, "lora", r=8)
    with pytest.raises(MethodError, match=r"\(train_head=True there, False asked for\)"):
        ftplug.apply(model, "lora", r=4, train_head=False)
    ftplug.apply(tiny.bert(), "lora", "bitfit")
