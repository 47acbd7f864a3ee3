"""A model with a method of ours and its twin by ``get_peft_model``: what must be equal."""

from __future__ import annotations

import copy
import functools
import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny
import torch
from runs import logits
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

import ftplug
from ftplug import structure

TASKS = {
    "SequenceClassification": "SEQ_CLS",
    "TokenClassification": "TOKEN_CLS",
    "QuestionAnswering": "QUESTION_ANS",
    "LMHeadModel": "CAUSAL_LM",
    "CausalLM": "CAUSAL_LM",
    "ConditionalGeneration": "SEQ_2_SEQ_LM",
    "Model": "FEATURE_EXTRACTION",
}
SEED = 7


def task_type(model: Any) -> str:
    return next(task for end, task in TASKS.items() if type(model).__name__.endswith(end))


def twins(base: Any, method: str, config: type, settings: Any = None, **peft_only: Any) -> Any:
    """Return ours and peft's on copies of ``base``, drawn under the same seed, in eval mode."""
    settings = {"num_virtual_tokens": 5} | (settings or {})
    ours = ftplug.apply(copy.deepcopy(base), method, seed=SEED, **settings)
    shared = {k: v for k, v in settings.items() if k not in ("init", "tokenizer")}
    torch.manual_seed(SEED)
    theirs = peft.get_peft_model(
        copy.deepcopy(base), config(task_type=task_type(base), **shared, **peft_only)
    )
    return ours, quiet(theirs.eval())


@functools.cache
def passes_the_old_cache() -> bool:
    """Whether models call their cache otherwise than the installed peft still does."""
    name = structure.cache_argument(LlamaForCausalLM)
    return name != "past_key_values" and f'"{name}"' not in inspect.getsource(peft.peft_model)


def fails_in_peft(request: pytest.FixtureRequest, where: bool) -> None:
    """Expect a test to fail for the cache's old name, until peft passes the new one.

    With a prefix peft then refuses every model with a head ("does not support past key values"),
    and generates with a cache what it does not generate without.
    """
    if where and passes_the_old_cache():
        reason = "peft passes past_key_values, which is called cache since transformers 5.24"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


def quiet(theirs: Any) -> Any:
    """Let a model of peft's not warn of the old name, which it passes to the base's forward."""
    for name in ("forward", "generate"):
        setattr(theirs, name, _quiet(getattr(theirs, name)))
    return theirs


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
            return function(*args, **kwargs)

    return called


def left_padded(model: Any) -> dict[str, torch.Tensor]:
    """Return a prompt whose last row is padded on the left."""
    batch = tiny.inputs(model)
    return {name: batch[name].flip(1) for name in ("input_ids", "attention_mask")}


def generated(model: Any, batch: Any, **options: Any) -> torch.Tensor:
    """Return ten tokens, greedily unless told otherwise."""
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None} | options
    found: torch.Tensor = model.generate(**batch, **options)
    return found


def gradients(model: Any, batch: Any) -> list[torch.Tensor]:
    """Return the gradients of the virtual tokens' encoder and of the head, in that order."""
    model(**batch).loss.backward()
    found = [(n, p.grad) for n, p in model.named_parameters() if p.requires_grad]
    encoder = [g for n, g in found if "_encoder." in n]
    return encoder + [g for n, g in found if "_encoder." not in n]


def losses(model: Any, batches: Any) -> list[float]:
    """Return the losses of a hand-written AdamW loop in train mode, dropout under a seed."""
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    torch.manual_seed(0)
    found = []
    for batch in batches:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def tokenizer(folder: Path) -> str:
    """Save a tokenizer of the tiny vocabulary, whose words are w3, w4, …; return its path."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, tiny.VOCAB)}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>").save_pretrained(folder)
    return str(folder)


def shaken(model: Any, scale: float = 0.3) -> Any:
    """Move everything that trains, as training would."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=draw) * scale)
    return model


def layers_equal_pefts(ours: Any, theirs: Any, base: Any, folder: Path) -> None:
    """Hold a method of layers beside peft's twin: training, files, disabled, merge and copies.

    ``theirs`` is the twin on a copy of ``base``, drawn under the same seed. ``folder`` is new.
    """
    batches = [tiny.inputs(base, seed=step) for step in range(5)]
    assert losses(ours, batches) == pytest.approx(losses(theirs, batches), abs=1e-6)
    trained = logits(ours)
    with ftplug.disabled(ours):
        assert torch.equal(logits(ours), logits(base))
    ftplug.save(ours, folder)
    assert not (folder / "ftplug.safetensors").exists()
    assert torch.equal(logits(ftplug.load(copy.deepcopy(base), folder)), trained)
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()
    assert torch.allclose(logits(plain, tiny.inputs(base)), trained, atol=1e-6)
    merged = ftplug.merge(copy.deepcopy(ours))
    assert torch.allclose(logits(merged), trained, atol=1e-6)
    twin = shaken(copy.deepcopy(ours))
    assert torch.equal(logits(ours), trained)
    assert not torch.allclose(logits(twin), trained)
