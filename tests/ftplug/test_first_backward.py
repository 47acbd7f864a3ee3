"""In a loop by hand, what gets no gradient in the first backward pass is named, once."""

import copy
import logging
from functools import partial

import pytest
import tiny
import torch
from torch.utils.checkpoint import checkpoint
from transformers import MixtralConfig, MixtralForCausalLM

import ftplug
from ftplug.attaching.attachment import require_attachment


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "ftplug")
    return lambda: [record.getMessage() for record in caplog.records]


def step(model):
    model.train()(**tiny.inputs(model)).loss.backward()


def hooks(model):
    return [name for name, p in model.named_parameters() if p._backward_hooks]


@pytest.mark.parametrize("method", ["lora", "bottleneck", "bitfit", "full", "ia3"])
def test_nothing_is_said_where_all_trains_and_no_hook_stays(method, said):
    model = ftplug.apply(tiny.bert(), method)
    assert hooks(model)
    step(model)
    assert said() == []
    assert hooks(model) == []


def test_what_the_loss_does_not_use_is_named_once(said):
    model = ftplug.apply(tiny.bert(""), "full")  # its pooler: this loss does not use it
    for _ in range(3):
        model(**tiny.inputs(model)).last_hidden_state.sum().backward()
    [line] = said()
    assert line.startswith("full: no gradient reached pooler.dense.weight, pooler.dense.bias in")
    assert set(hooks(model)) == {"pooler.dense.weight", "pooler.dense.bias"}


def test_it_is_said_again_when_it_is_saved_unless_it_trained_later(said, tmp_path):
    model = ftplug.apply(tiny.bert(""), "full")
    model(**tiny.inputs(model)).last_hidden_state.sum().backward()
    ftplug.save(model, tmp_path / "a", probe=False)
    assert said()[-1].startswith("full: saved as they began: pooler.dense.weight, pooler.dense.bi")
    model(**tiny.inputs(model)).pooler_output.sum().backward()
    assert hooks(model) == []
    count = len(said())
    ftplug.save(model, tmp_path / "b", probe=False)
    assert len(said()) == count


def test_what_is_switched_off_meanwhile_is_not_named(said):
    model = ftplug.apply(tiny.bert(), "full")
    model.classifier.requires_grad_(False)
    step(model)
    assert said() == []


def test_experts_that_no_token_reached_are_told_apart(said):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    }  # fmt: skip
    config = MixtralConfig(vocab_size=tiny.VOCAB, pad_token_id=0, num_local_experts=4, **sizes)
    model = ftplug.apply(MixtralForCausalLM(config), "full")
    experts = model.model.layers[0].mlp.experts
    experts.forward = lambda hidden, *_: hidden  # as if all its tokens went elsewhere
    step(model)
    assert any("no token reached the experts of model.layers.0.mlp.experts" in s for s in said())


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_that_are_computed_again_end_no_pass_of_their_own(reentrant, said):
    model = ftplug.apply(tiny.bert(), "lora", r=4, train_head=False)
    for layer in model.bert.encoder.layer:
        plain = layer.forward
        layer.forward = lambda *args, plain=plain, **kwargs: checkpoint(
            partial(plain, **kwargs), *args, use_reentrant=reentrant
        )
    model.bert.embeddings.register_forward_hook(lambda *_: _[2].requires_grad_())
    kept = tiny.inputs(model)
    model.train()(**kept).loss.backward()
    assert said() == []
    assert hooks(model) == []


def with_unused():
    """Return a tiny BERT with a layer that nothing reads."""
    model = tiny.bert()
    model.bert.unused = torch.nn.Linear(2, 2)
    return model.train()


UNUSED = {"train": ("bert.unused.*",), "train_head": False}


def test_a_loss_that_depends_on_nothing_that_trains_is_refused_before_torch_does(tmp_path):
    from runs import trainer

    line = r"freeze: the loss of this batch depends on nothing that trains \(bert.unused.weight, "
    model = ftplug.apply(with_unused(), "freeze", **UNUSED)
    with pytest.raises(ftplug.MethodError, match=line):
        model(**tiny.inputs(model))
    with torch.no_grad():
        model(**tiny.inputs(model))
    assert model.eval()(**tiny.inputs(model)).loss.requires_grad is False

    bound = trainer(with_unused(), tmp_path, max_steps=1, save_strategy="no")
    ftplug.attach(bound, "freeze", **UNUSED)
    with pytest.raises(ftplug.MethodError, match=line):
        bound.train()


def test_answers_that_depend_on_nothing_that_trains_are_named_once(said):
    model = ftplug.apply(with_unused(), "freeze", **UNUSED)
    inputs = {name: value for name, value in tiny.inputs(model).items() if name != "labels"}
    for _ in range(2):
        model(**inputs)
    [line] = said()
    assert line.startswith("freeze: no gradient reached bert.unused.weight, bert.unused.bias in")


def test_the_base_models_own_answers_need_no_gradient(said):
    model = ftplug.apply(tiny.bert(), "reft", train_head=False).train()
    with ftplug.disabled(model):
        model(**tiny.inputs(model))
    step(model)
    assert said() == []
    assert hooks(model) == []


def test_a_copy_has_no_hooks_and_a_trainer_looks_for_itself(said, tmp_path):
    from runs import trainer

    model = ftplug.apply(tiny.bert(), "lora", r=4)
    assert hooks(copy.deepcopy(model)) == []
    ftplug.attach(trainer(model, tmp_path, max_steps=1, save_strategy="no"), "lora", r=4)
    assert hooks(model) == []
    assert require_attachment(model).first_backward is None
