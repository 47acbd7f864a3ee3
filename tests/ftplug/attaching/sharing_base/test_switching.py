"""LoRA artifacts in one model, switched by peft's own API; ftplug's models refuse a second one."""

import peft
import pytest
import tiny
import torch
from runs import logits, shake

import ftplug
from ftplug import MethodError


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    folders = []
    for scale in (0.1, 0.3):
        model = shake(ftplug.apply(tiny.llama(), "lora", r=4), scale)
        folders.append(ftplug.save(model, tmp_path_factory.mktemp("lora"), probe=False))
    return folders


def test_peft_switches_between_artifacts_as_loaded_alone(artifacts):
    alone = [logits(ftplug.load(tiny.llama(), folder)) for folder in artifacts]
    model = peft.PeftModel.from_pretrained(tiny.llama(), artifacts[0], adapter_name="first")
    model.load_adapter(artifacts[1], adapter_name="second")
    for name, expected in zip(("first", "second", "first"), (*alone, alone[0]), strict=True):
        model.set_adapter(name)
        assert torch.equal(logits(model.base_model.model), expected)
    with pytest.raises(MethodError, match="carries no ftplug method"):
        ftplug.save(model, artifacts[0])
    with pytest.raises(MethodError, match="carries no ftplug method"):
        ftplug.merge(model)


@pytest.mark.parametrize("name", ["load_adapter", "set_adapter"])
def test_a_model_of_ftplug_saves_and_merges_what_it_answers_with(name, artifacts, tmp_path):
    model = ftplug.load(tiny.llama(), artifacts[0])
    expected = logits(model)
    with pytest.raises(MethodError, match=f"{name}: the model carries lora by ftplug"):
        getattr(model, name)(artifacts[1])
    ftplug.save(model, tmp_path, probe=False)
    assert torch.equal(logits(ftplug.load(tiny.llama(), tmp_path)), expected)
    torch.testing.assert_close(logits(ftplug.merge(model)), expected)
