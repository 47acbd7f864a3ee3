"""Bases in folders, and adapters that plain peft saves for them."""

import json
import shutil
import warnings

import peft
import pytest
import tiny
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

import ftplug
from ftplug.adopting.adopt import adopt

AUTO = {
    "bert": (AutoModelForSequenceClassification, "SEQ_CLS"),
    "encoder": (AutoModelForSequenceClassification, "SEQ_CLS"),
    "llama": (AutoModelForCausalLM, "CAUSAL_LM"),
    "decoder": (AutoModel, "FEATURE_EXTRACTION"),
    "gpt2": (AutoModelForCausalLM, "CAUSAL_LM"),
    "tied": (AutoModelForCausalLM, "CAUSAL_LM"),
    "moe": (AutoModelForCausalLM, "CAUSAL_LM"),
    "t5": (AutoModelForSeq2SeqLM, "SEQ_2_SEQ_LM"),
    "questions": (AutoModelForQuestionAnswering, "QUESTION_ANS"),
}


def answers(model, batch):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = model.eval()(**batch)
    return output.start_logits if "start_logits" in output else output.logits


class Elsewhere:
    """A folder of bases, and ``saved``: an adapter of peft for one of them, moved off its start."""

    def __init__(self, root):
        self.root = root
        self.saved_to = 0
        tiny.bert().save_pretrained(root / "bert")
        tiny.bert("Model").save_pretrained(root / "encoder")
        tiny.llama().save_pretrained(root / "llama")
        tiny.llama("Model").save_pretrained(root / "decoder")
        tiny.gpt2().save_pretrained(root / "gpt2")
        tiny.llama(tie_word_embeddings=True).save_pretrained(root / "tied")
        tiny.qwen3_moe().save_pretrained(root / "moe")
        tiny.t5().save_pretrained(root / "t5")
        tiny.bert("Model").save_pretrained(root / "questions")

    def base(self, kind, **config):
        torch.manual_seed(0)
        return AUTO[kind][0].from_pretrained(self.root / kind, **config).eval()

    def peft(self, kind, peft_type, *, base=None, train=True, **settings):
        config = next(c for k, c in CONFIGS.items() if getattr(k, "value", k) == peft_type)
        torch.manual_seed(0)
        settings = {"task_type": AUTO[kind][1]} | settings
        model = peft.get_peft_model(base or self.base(kind), config(**settings))
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and train:
                    parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.1)
        return model.eval()

    def new_folder(self):
        self.saved_to += 1
        return self.root / f"adapter-{self.saved_to}"

    def saved(self, kind, peft_type, *, named=None, **settings):
        """Save an adapter that says it was trained on ``named``."""
        folder = self.new_folder()
        with warnings.catch_warnings():  # of what it saves besides
            warnings.simplefilter("ignore")
            self.peft(kind, peft_type, **settings).save_pretrained(folder)
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | {"base_model_name_or_path": named}
        path.write_text(json.dumps(config))
        return folder

    def equal_to_peft(self, kind, folder, to, *, rows=0, batch=None):
        """Adopt, load both ways, and compare on other inputs than those that adopting compared."""
        base = str(self.root / kind)
        done = adopt(folder, base, to=to)
        twin = self.base(kind)
        if rows:
            twin.resize_token_embeddings(twin.config.vocab_size + rows, mean_resizing=False)
        batch = batch or {n: v for n, v in tiny.inputs(twin).items() if n != "labels"}
        plain = answers(self.base(kind), batch) if not rows else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = answers(peft.PeftModel.from_pretrained(twin, folder), batch)
        assert rows or not torch.allclose(plain, theirs, atol=1e-4)
        ours = answers(ftplug.load(base, to), batch)
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)
        assert done.compared.difference <= 1e-6
        return done

    def edited(self, folder, to, **changes):
        """Copy an adapter with other entries in its config; None takes one out."""
        shutil.copytree(folder, to)
        config = json.loads((to / "adapter_config.json").read_text())
        config = {k: v for k, v in (config | changes).items() if not (k in changes and v is None)}
        (to / "adapter_config.json").write_text(json.dumps(config))
        return to


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="module")
def lora(elsewhere):
    """LoRA of peft with a trained classifier."""
    return elsewhere.saved("bert", "LORA", r=4, named="org/bert")
