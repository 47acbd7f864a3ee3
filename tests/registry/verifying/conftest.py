"""A tiny language model, one of its LoRA artifacts, and the models that a server may have."""

import copy

import pytest
import torch
from runs import shake
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import ftplug
from ftplug.effect.tokens import PROMPTS
from ftplug.testing import tiny


def _tokenizer():
    """Return words of the probe's prompts as tokens, and others to answer with."""
    words = dict.fromkeys(word for prompt in PROMPTS for word in prompt.replace(":", "").split())
    names = ["<pad>", "<s>", "</s>", "<unk>", *words, *(f"w{n}" for n in range(64))][:64]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip


@pytest.fixture(scope="session")
def language_base(tmp_path_factory):
    """The folder of a tiny Llama that does not hold all tokens equally likely."""
    folder = tmp_path_factory.mktemp("language-base")
    model = tiny.llama()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_artifact(language_base, tmp_path_factory):
    """The folder of a LoRA artifact on it, with a probe; not to be changed."""
    folder = tmp_path_factory.mktemp("language-artifact") / "tuned"
    model = AutoModelForCausalLM.from_pretrained(language_base)
    model = shake(ftplug.apply(model, "lora", r=4, lora_alpha=16))
    ftplug.save(model, folder, processing_class=_tokenizer())
    return folder


@pytest.fixture(scope="session")
def language_models(language_base, language_artifact):
    """Return ``{name: (model, tokenizer)}``: what servers make of the artifact."""

    def fresh():
        return AutoModelForCausalLM.from_pretrained(language_base).eval()

    found = {"base": fresh(), "trained": ftplug.load(fresh(), language_artifact).eval()}
    found["wrong scale"] = _changed(found["trained"], lambda number, values: values / 2)
    found["half dropped"] = _changed(found["trained"], lambda number, values: values * (number % 2))
    found["bfloat16"] = copy.deepcopy(found["trained"]).bfloat16()
    found["another"] = tiny.llama().eval()
    return found


def _changed(model, change):
    changed = copy.deepcopy(model)
    number = 0
    for name, parameter in changed.named_parameters():
        if "lora_B" in name:
            parameter.data = change(number, parameter.data)
            number += 1
    assert number > 1
    return changed


@pytest.fixture(scope="session")
def tokenizer():
    return _tokenizer()
