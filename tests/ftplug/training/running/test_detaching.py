"""ftplug.detach on a Trainer: it is as its constructor left it, and trains something else next."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.freeze import Freeze
from runs import CHECKPOINTING, losses, same, trainer, weights
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

import ftplug
from ftplug import FTPlugCallback, MethodError
from ftplug.attaching.attachment import attachment_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SHORT = {"max_steps": 4, "save_strategy": "no", "learning_rate": 1e-2}


def bert():
    """Return a model with dropout, whose losses tell what the random generators gave."""
    return tiny.bert(hidden_dropout_prob=0.1)


def built(out, *methods, model=None, **options):
    """Return a Trainer with methods attached, or none."""
    one = trainer(model or bert(), out, **(SHORT | options))
    return ftplug.attach(one, *methods) if methods else one


def run(one):
    """Return the losses of a training run, and the weights that it ends with."""
    one.train()
    return losses(one), weights(one.model)


def equal(first, second):
    return first[0] == second[0] and same(first[1], second[1]) and len(first[0]) > 2


@pytest.mark.parametrize(
    "options",
    [{}, {"bf16": True, "use_cpu": True}, {CHECKPOINTING: True}],
    ids=["plain", "bf16", "checkpointing"],
)
@pytest.mark.parametrize("first", ["full", "prompt-tuning"])
def test_the_next_method_trains_as_on_a_new_trainer(tmp_path, first, options):
    if CHECKPOINTING in options:
        options = options | {f"{CHECKPOINTING}_kwargs": {"use_reentrant": True}}
    one = built(tmp_path / "a", first, **options)
    one.train()
    assert ftplug.detach(one) is one
    assert ftplug.attach(one, "lora") is one
    assert equal(run(one), run(built(tmp_path / "b", "lora", **options)))
    assert one.state.global_step == 4
    assert [m.name for m in attachment_of(one.model).host.methods] == ["lora"]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("options", [{"bf16": True, "use_cpu": True}, {}], ids=["bf16", "plain"])
def test_without_a_method_it_is_a_trainer_that_never_had_one(tmp_path, trained, options):
    plain = built(tmp_path / "b", **options)
    shown, names = set(vars(plain)), set(vars(plain.model))
    expected = run(plain)
    one = built(tmp_path / "a", "lora", **options)
    if trained:
        one.train()
    ftplug.detach(one)
    assert type(one) is Trainer
    assert set(vars(one)) - shown <= {"model_preparation_time", "neftune_hook_handle"} | {
        name for name in vars(plain) if name not in shown
    }
    assert set(vars(one.model)) == names
    assert one.optimizer is None
    assert one.lr_scheduler is None
    assert one.state.global_step == 0
    assert one.state.log_history == []
    assert not any(isinstance(c, FTPlugCallback) for c in one.callback_handler.callbacks)
    assert one.model_wrapped is one.model
    assert one.callback_handler.optimizer is None
    assert equal(run(one), expected)


def test_a_callback_given_to_the_constructor_goes_too(tmp_path):
    given = [FTPlugCallback("bitfit"), Counting()]
    one = built(tmp_path / "a", callbacks=given)
    one.train()
    ftplug.detach(one)
    assert given[1] in one.callback_handler.callbacks
    ftplug.attach(one, "lora")
    assert equal(run(one), run(built(tmp_path / "b", "lora")))
    assert given[1].steps == 8


class Counting(TrainerCallback):
    """Counts steps."""

    steps = 0

    def on_step_end(self, *args, **kwargs):
        self.steps += 1


def test_after_a_resumed_run_and_several_methods_in_turn(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    built(tmp_path / "a", "lora", "bitfit", **options).train()
    one = built(tmp_path / "a", "lora", "bitfit", **options)
    one.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"))
    base = weights(bert())
    for method in ("bottleneck", "full", "pissa", "gradual-unfreezing"):
        assert same(weights(ftplug.detach(one).model), base)
        ftplug.attach(one, method)
        switched = run(one)
        assert equal(switched, run(built(tmp_path / method, method, **options)))


def test_a_rate_that_was_set_is_taken_back(tmp_path):
    one = trainer(bert(), tmp_path, **SHORT)
    ftplug.attach(one, "lora", lr=0.3)
    one.train()
    assert ftplug.detach(one).args.learning_rate == SHORT["learning_rate"]
    ftplug.attach(one, "lora", lr="suggested")
    one.args.learning_rate = 0.02  # by the user, and what ftplug set is taken back all the same
    assert ftplug.detach(one).args.learning_rate == SHORT["learning_rate"]


def test_an_optimizer_that_was_given_is_there_again(tmp_path):
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    one = trainer(model, tmp_path, **SHORT)
    one.optimizer = optimizer
    ftplug.attach(one, "bitfit")
    one.train()
    ftplug.detach(one)
    assert one.optimizer is optimizer
    assert same(weights(model), weights(bert()))


class Detaching(TrainerCallback):
    """Detaches in the middle of a step, by the model or by the Trainer."""

    def on_step_end(self, *args, **kwargs):
        ftplug.detach(self.what(self.trainer))


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (lambda one: one, r"Trainer\.train\(\) is running"),
        (lambda one: one.model, r"a Trainer trains this model with lora: give detach that Trainer"),
    ],
)
def test_not_while_it_trains_and_afterwards_all_the_same(tmp_path, what, match):
    detaching = Detaching()
    one = detaching.trainer = trainer(bert(), tmp_path, callbacks=[detaching], **SHORT)
    detaching.what = what
    ftplug.attach(one, "lora")
    with pytest.raises(MethodError, match=match):
        one.train()
    assert one.is_in_train  # transformers leaves it so
    one.remove_callback(detaching)
    ftplug.detach(one)
    assert not one.is_in_train
    assert equal(run(one), run(built(tmp_path / "b")))


def test_the_model_of_a_trainer_that_is_gone_is_detached_by_itself(tmp_path):
    model = bert()
    one = built(tmp_path, "lora", model=model)
    one.train()
    with pytest.raises(MethodError, match="give detach that Trainer"):
        ftplug.detach(model)
    del one
    ftplug.detach(model)
    assert same(weights(model), weights(bert()))


def test_two_trainers_on_one_model(tmp_path):
    first = built(tmp_path / "a", "lora")
    first.train()
    second = built(tmp_path / "b", "lora", model=first.model)
    with pytest.raises(MethodError, match="give detach that Trainer"):
        ftplug.detach(first)
    ftplug.detach(second)
    ftplug.detach(first)
    assert type(first) is type(second) is Trainer
    assert same(weights(first.model), weights(bert()))


def test_a_plain_trainer_another_time_and_a_merged_model_are_refused(tmp_path):
    one = built(tmp_path)
    with pytest.raises(MethodError, match="this Trainer has no ftplug method"):
        ftplug.detach(one)
    ftplug.detach(ftplug.attach(one, "lora"))
    with pytest.raises(MethodError, match="this Trainer has no ftplug method"):
        ftplug.detach(one)
    ftplug.attach(one, "lora")
    ftplug.merge(one.model)
    with pytest.raises(MethodError, match="Trainer's model was merged"):
        ftplug.detach(one)


@pytest.mark.parametrize(
    ("engine", "match"),
    [("deepspeed", "DeepSpeed's engine holds this Trainer's"), ("compiled", "torch.compile has")],
)
def test_what_an_engine_or_a_compiler_holds_is_refused(tmp_path, engine, match):
    one = built(tmp_path, "lora")
    if engine == "deepspeed":
        one.deepspeed = object()
    else:
        one.model_wrapped = torch.compile(one.model, backend="eager")
    with pytest.raises(MethodError, match=match):
        ftplug.detach(one)
    assert attachment_of(one.model)


def test_checkpoints_on_a_signal_are_transformers_own_again(tmp_path):
    one = trainer(bert(), tmp_path, enable_jit_checkpoint=True, **SHORT)
    kinds = [type(callback) for callback in one.callback_handler.callbacks]
    ftplug.attach(one, "lora")
    ftplug.detach(one)
    assert [type(callback) for callback in one.callback_handler.callbacks] == kinds


def test_a_cache_of_the_trunk_is_taken_off_whoever_put_it_on(tmp_path):
    model = bert()
    one = built(tmp_path / "a", Freeze(layers=1), "trunk-cache", model=model)
    one.train()
    two = built(tmp_path / "b", Freeze(layers=1), model=model)  # without it
    three = built(tmp_path / "c", Freeze(layers=1), "trunk-cache", model=model)
    three.train()
    ftplug.detach(three)
    del one, two
    assert [type(m) for m in model.modules()] == [type(m) for m in bert().modules()]
    assert [sorted(vars(m)) for m in model.modules()] == [sorted(vars(m)) for m in bert().modules()]
    assert equal(run(three), run(built(tmp_path / "d")))


def test_what_was_learned_is_saved_before_and_loads_after(tmp_path):
    one = built(tmp_path / "a", "lora")
    one.train()
    trained = weights(one.model)
    one.save_model(tmp_path / "artifact")
    model = ftplug.detach(one).model
    assert same(weights(ftplug.load(copy.deepcopy(model), tmp_path / "artifact")), trained)


def test_a_trainer_that_keeps_the_best_and_stops_early(tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps",
               "eval_steps": 2, "load_best_model_at_end": True}  # fmt: skip
    one = built(tmp_path / "a", callbacks=[EarlyStoppingCallback(5)], **options)
    ftplug.attach(one, "lora")
    one.train()
    assert one.state.best_model_checkpoint
    assert ftplug.detach(one).state.best_model_checkpoint is None
    assert same(weights(one.model), weights(bert()))
