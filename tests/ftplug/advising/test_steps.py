"""Advice that is measured: in pairs, with the model as it was afterwards."""

from functools import partial
from types import SimpleNamespace

import pytest
import tiny
import torch
from runs import METHODS, trainer
from transformers import Trainer

import ftplug
from ftplug import structure
from ftplug.advising import layers, measuring, steps
from ftplug.advising.measuring import FEWEST, Kept, Paired, compare
from ftplug.advising.report import CATALOGUE, look_at
from ftplug.advising.seen import Seen

CPU = torch.device("cpu")


def about_to_train(model, tmp_path, *methods, limit=0.5, settings=None, **options):
    """Return what is seen of a Trainer whose training is about to begin."""
    made = trainer(model, tmp_path, use_cpu=True, save_strategy="no", **options)
    if methods:
        ftplug.attach(made, *methods, **settings or {})
    made.state.max_steps = made.args.max_steps
    made.model_wrapped = made.model
    made.create_optimizer()
    return Seen(made, made.get_train_dataloader(), limit)


def test_what_is_faster_is_measured_as_faster(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def taking(seconds):
        clock[0] += seconds

    found = compare(partial(taking, 0.004), partial(taking, 0.001), CPU, limit=2)
    assert found.agree
    assert found.ratio == pytest.approx(4)
    assert found.pairs >= FEWEST


def test_without_time_one_pair_is_taken_and_claims_nothing():
    calls = []
    found = compare(lambda: calls.append("a"), lambda: calls.append("b"), CPU, limit=0)
    assert calls == ["a", "b"]
    assert found.pairs == 1
    assert not found.agree
    assert str(found) == "measured here once"


def test_pairs_that_disagree_claim_nothing():
    assert not Paired(1.0, 1.0, 1.1, 0.9, 1.3, 9).agree
    assert Paired(1.0, 1.0, 1.1, 1.05, 1.3, 9).agree


def test_a_step_that_is_too_long_to_measure_says_so(tmp_path):
    found = about_to_train(tiny.bert(), tmp_path, limit=0.5)
    found.seconds = 3.0
    with pytest.raises(TimeoutError, match=r"a step takes 3\.0 s: --seconds"):
        found.compared()


def state(model):
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    return [{name: vars(m)[name] for name in names if name in vars(m)} for m in model.modules()]


@pytest.mark.parametrize("family", [tiny.bert, tiny.llama, tiny.t5, tiny.vit])
@pytest.mark.parametrize("on", [False, True])
def test_checkpointing_is_switched_and_is_afterwards_as_it_was(family, on):
    model = family()
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    if on:
        enable()
    before, hooks = state(model), len(model.get_input_embeddings()._forward_hooks)
    with structure.switched_activation_checkpointing(model, not on):
        assert structure.activation_checkpointing(model) is not on
        model.train()(**tiny.inputs(model)).loss.backward()
    assert state(model) == before
    assert len(model.get_input_embeddings()._forward_hooks) == hooks
    assert structure.activation_checkpointing(model) is on


def test_what_a_forward_keeps_is_counted_once():
    layer = torch.nn.Linear(8, 16)
    x = torch.randn(4, 8, requires_grad=True)  # so that the weight is kept, too
    # x for the weight's gradient; sigmoid keeps its output; the weight is the model's own.
    kept = Kept(layer, []).bytes(lambda: layer(x).sigmoid())
    assert kept == 4 * (x.numel() + 4 * 16)


def test_checkpointing_that_memory_does_not_need_is_advised_against(tmp_path):
    model = tiny.llama(num_hidden_layers=4)
    found = about_to_train(model, tmp_path, limit=3, activation_checkpointing=True)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    [advice] = steps.checkpointing(found)
    assert advice.setting.endswith("_checkpointing=False")
    assert advice.gain > 1.03
    assert "MiB of activations" in advice.what
    assert structure.activation_checkpointing(model)


def test_checkpointing_is_advised_where_memory_is_full(tmp_path, monkeypatch):
    found = about_to_train(tiny.llama(num_hidden_layers=4), tmp_path)
    assert list(steps.checkpointing(found)) == []
    monkeypatch.setattr(steps, "room", lambda seen: -1.0)
    [advice] = steps.checkpointing(found)
    assert advice.setting.endswith("_checkpointing=True")
    assert advice.gain > 1.5
    assert "times as long" in advice.what


def test_attention_is_compared_where_it_is_eager(tmp_path):
    model = tiny.bert(attn_implementation="eager")
    [advice] = steps.attention(about_to_train(model, tmp_path))
    assert "sdpa" in advice.setting
    assert model.config._attn_implementation == "eager"
    assert list(steps.attention(about_to_train(tiny.bert(), tmp_path))) == []


def test_bf16_is_compared_where_all_is_float32(tmp_path):
    [advice] = steps.precision(about_to_train(tiny.bert(), tmp_path))
    assert advice.setting == "bf16=True"
    assert list(steps.precision(about_to_train(tiny.bert(), tmp_path, bf16=True))) == []
    assert list(steps.precision(about_to_train(tiny.bert().bfloat16(), tmp_path))) == []


def test_the_fused_optimizer_is_compared_with_the_one_in_use(tmp_path):
    [advice] = steps.optimizer(about_to_train(tiny.bert(), tmp_path, optim="adamw_torch"))
    assert "the optimizer takes" in advice.what
    for optim in ("adamw_torch_fused", "sgd"):
        assert list(steps.optimizer(about_to_train(tiny.bert(), tmp_path, optim=optim))) == []


@pytest.mark.parametrize(
    ("method", "settings", "frozen"),
    [
        ("freeze", {"layers": 1}, 1),
        ("freeze", {"layers": 0}, 2),
        ("full", {}, 0),
        ("lora", {"r": 4}, 0),
        ("lora", {"r": 4, "layers_to_transform": 1}, 1),
        ("prompt-tuning", {"num_virtual_tokens": 2}, 0),
        ("prefix-tuning", {"num_virtual_tokens": 2}, 0),
    ],
)
def test_layers_below_all_that_trains_are_found(method, settings, frozen, tmp_path):
    found = about_to_train(tiny.bert(), tmp_path, method, settings=settings, max_steps=24)
    trunk = layers.Trunk(found.layers)
    trunk.watch(found.step)
    assert trunk.frozen == frozen
    assert len(trunk.seconds) == (trunk.STEPS if frozen else 0)


def test_the_trunk_cache_is_advised_where_layers_are_frozen_and_epochs_several(tmp_path):
    found = about_to_train(tiny.bert(), tmp_path, "freeze", settings={"layers": 1}, max_steps=24)
    [advice] = layers.frozen_trunk(found)
    assert advice.setting == "--method freeze --method trunk-cache"
    assert "1 of 2 layers never change" in advice.what
    assert advice.gain > 1
    once = about_to_train(tiny.bert(), tmp_path, "freeze", settings={"layers": 1}, max_steps=8)
    assert list(layers.frozen_trunk(once)) == []


def test_logits_are_measured_and_liger_is_for_gpus(tmp_path):
    found = about_to_train(tiny.llama(), tmp_path)
    assert layers.logits_bytes(found) == 4 * 7 * tiny.VOCAB * 4  # rows, tokens, vocabulary, bytes
    assert list(layers.logits(found)) == []
    assert layers.logits_bytes(about_to_train(tiny.bert(), tmp_path)) == 0


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit"])
@pytest.mark.parametrize("method", [None, *METHODS, "lisa", "reft"])
def test_everything_can_be_looked_at(family, method, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "MOST", 1)
    if family == "vit" and method in ("prefix-tuning", "prompt-tuning"):
        method = "lora"  # these do not fit
    methods, settings = filter(None, [method]), METHODS.get(method, {})
    found = about_to_train(getattr(tiny, family)(), tmp_path, *methods, settings=settings)
    report = look_at(found.trainer, found.trainer.get_train_dataloader(), limit=60)
    assert report.failed == {}
    assert report.seen["kept_bytes"] > 0
    assert "Trainer trains" in str(report)


def test_batches_that_are_no_mappings_are_looked_at_too(tmp_path, monkeypatch):
    class Tuples(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            return model(input_ids=inputs[0], labels=inputs[1]).loss

    monkeypatch.setattr(measuring, "MOST", 1)
    bound = trainer(tiny.bert(), tmp_path, cls=Tuples, use_cpu=True, save_strategy="no")
    bound.data_collator = lambda rows: tuple(
        torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")
    )
    bound.state.max_steps = 20
    bound.model_wrapped = bound.model
    bound.create_optimizer()
    report = look_at(bound, bound.get_train_dataloader(), limit=60)
    assert report.failed == {}
    assert report.seen["padding"] is None


def test_what_cannot_be_looked_at_is_named_and_the_rest_goes_on(tmp_path, monkeypatch):
    def broken(seen):
        yield from ()
        raise ValueError("this model is\nodd")

    monkeypatch.setattr(measuring, "MOST", 1)
    monkeypatch.setitem(CATALOGUE, "attention", broken)
    found = about_to_train(tiny.bert(), tmp_path)
    report = look_at(found.trainer, found.trainer.get_train_dataloader(), limit=60)
    assert list(report.failed) == ["attention"]
    assert "attention: ValueError: this model is odd" in str(report)
    assert any(one.setting == "bf16=True" for one in report.advice)
