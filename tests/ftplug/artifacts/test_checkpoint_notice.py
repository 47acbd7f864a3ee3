"""A checkpoint folder that is given to ``from_pretrained``: never a model, always the way."""

import pytest
import tiny
import torch
import transformers
from runs import METHODS, logits, trainer

import ftplug
from ftplug.artifacts.checkpoint import resumable

WAY = r"ftplug\.load\(base, '…/checkpoint-4'\) reads it"
READERS = {
    "a model": transformers.AutoModel.from_pretrained,
    "a model with a head": transformers.AutoModelForSequenceClassification.from_pretrained,
    "a config": transformers.AutoConfig.from_pretrained,
    "a pipeline": lambda folder: transformers.pipeline("text-classification", str(folder)),
}


def checkpoint(method, folder):
    bound = trainer(tiny.bert(), folder, max_steps=4, save_steps=4)
    ftplug.attach(bound, method, **METHODS[method]).train()
    return bound.model, folder / "checkpoint-4"


@pytest.mark.parametrize("method", METHODS)
def test_from_pretrained_names_what_reads_it(method, tmp_path):
    model, folder = checkpoint(method, tmp_path)
    for reader in READERS.values():
        with pytest.raises(ValueError, match=WAY):
            reader(folder)
    assert torch.equal(logits(ftplug.load(tiny.bert(), folder)), logits(model))


def test_a_class_that_is_named_raises_and_warns_with_the_way(tmp_path, caplog):
    _, folder = checkpoint("lora", tmp_path)
    logger = transformers.utils.logging.get_logger("transformers")
    logger.addHandler(caplog.handler)
    transformers.utils.logging.set_verbosity_warning()
    try:
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            transformers.BertForSequenceClassification.from_pretrained(folder)
    finally:
        logger.removeHandler(caplog.handler)
        transformers.utils.logging.set_verbosity_error()
    assert "checkpoint-4') reads it" in caplog.text


def test_a_config_of_the_model_may_take_its_place(tmp_path):
    model, folder = checkpoint("lora", tmp_path)
    model.config.save_pretrained(folder)
    assert resumable(folder) == folder
    again = trainer(tiny.bert(), tmp_path, max_steps=6)
    ftplug.attach(again, "lora", r=4).train(resume_from_checkpoint=str(folder))
    assert transformers.AutoConfig.from_pretrained(folder).model_type == "bert"
