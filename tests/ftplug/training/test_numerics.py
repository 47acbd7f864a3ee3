"""A loss or gradient that is no number stops a run; a tensor that does not move is named."""

import copy
from dataclasses import dataclass

import pytest
import tiny
import torch
from ftplug_plugins.bitfit import BitFit
from ftplug_plugins.gradual_unfreezing import GradualUnfreezing
from ftplug_plugins.lisa import Lisa
from ftplug_plugins.lora import Lora
from runs import METHODS, same, trainer, weights
from torch import nn
from transformers import Trainer
from typer.testing import CliRunner

import ftplug
from ftplug import Method, MethodError, NonFiniteError, hookimpl
from ftplug.cli import app
from ftplug.training.numerics import Movement
from ftplug.training.script import Launch

A = "bert.encoder.layer.0.attention.self.query.lora_A.default.weight"
B = A.replace("lora_A", "lora_B")


class LossTurns(Trainer):
    """Its loss is ``value`` in the second micro-batch of step 3; the gradients stay finite."""

    value = float("nan")
    calls = 0

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss = super().compute_loss(model, inputs, return_outputs, **kwargs)
        self.calls += 1
        turned = self.calls == 2 * self.args.gradient_accumulation_steps + 2
        return loss + self.value if turned else loss


def bound_lora(out, cls=Trainer, *, check_finite=True, **options):
    bound = trainer(tiny.bert(), out, cls=cls, save_strategy="no", **{"max_steps": 5} | options)
    return ftplug.attach(bound, "lora", r=4, check_finite=check_finite)


def spoil(model, name, value, step):
    """Put ``value`` into one element of a gradient in the backward pass of a step (1-based)."""
    passes = []

    def change(gradient):
        passes.append(1)
        if len(passes) == step:
            gradient = gradient.clone()
            gradient.view(-1)[-1] = value
        return gradient

    dict(model.named_parameters())[name].register_hook(change)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_before_the_step(tmp_path, value):
    bound = bound_lora(tmp_path, LossTurns, gradient_accumulation_steps=2)
    bound.value = value
    with pytest.raises(NonFiniteError, match=rf"the loss is {value} in step 3: .*check_finite="):
        bound.train()
    assert bound.state.global_step == 2
    stopped = bound_lora(tmp_path, gradient_accumulation_steps=2)
    stopped.add_callback(_Stop(2))
    stopped.train()
    assert same(weights(bound.model), weights(stopped.model))  # nothing of step 3 is in it


class _Stop(ftplug.training.binding.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_gradient_that_is_no_number_is_named(tmp_path, value, clip):
    bound = bound_lora(tmp_path, max_grad_norm=clip)
    spoil(bound.model, B, value, step=3)
    with pytest.raises(NonFiniteError) as stopped:
        bound.train()
    assert f"the gradient of {B} is not finite in step 3" in str(stopped.value)


def test_several_are_counted(tmp_path):
    bound = bound_lora(tmp_path)
    for name in (B, "classifier.weight"):
        spoil(bound.model, name, float("nan"), step=1)
    with pytest.raises(NonFiniteError, match=rf"{B} .*\(and of 1 more of 10 tensors\) in step 1"):
        bound.train()


def test_it_can_be_switched_off(tmp_path):
    bound = bound_lora(tmp_path, check_finite=False)
    spoil(bound.model, B, float("nan"), step=3)
    bound.train()
    assert bound.state.global_step == 5
    assert weights(bound.model)[B].isnan().all()  # that is what the check prevents


def test_looking_changes_nothing(tmp_path):
    looked, blind = bound_lora(tmp_path), bound_lora(tmp_path, check_finite=False)
    for bound in (looked, blind):
        bound.train()
    assert same(weights(looked.model), weights(blind.model))
    assert looked.state.log_history[:5] == blind.state.log_history[:5]


def test_a_trainers_own_clipping_stays(tmp_path):
    class ClipsByValue(Trainer):
        def _clip_grad_norm(self, model):
            self.clipped = True
            nn.utils.clip_grad_value_(model.parameters(), 0.1)

    bound = bound_lora(tmp_path, ClipsByValue)
    spoil(bound.model, B, float("nan"), step=3)
    with pytest.raises(NonFiniteError, match="in step 3"):
        bound.train()
    assert bound.clipped


def test_a_grad_scaler_skips_infinite_gradients_itself(tmp_path):
    bound, other = bound_lora(tmp_path), bound_lora(tmp_path, LossTurns)
    for scaled in (bound, other):
        scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    spoil(bound.model, B, float("inf"), step=3)
    bound.train()
    assert bound.state.global_step == 5
    assert bound.accelerator.scaler.get_scale() == 1.0  # it saw it, and halved its scale
    assert all(value.isfinite().all() for value in weights(bound.model).values())
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        other.train()


@pytest.mark.gpu
def test_fp16_survives_the_first_scales(tmp_path):
    bound = bound_lora(tmp_path, fp16=True, max_steps=20)
    before = weights(bound.model)
    bound.train()
    assert bound.state.global_step == 20
    trained = weights(bound.model)
    assert all(value.isfinite().all() for value in trained.values())
    assert not trained[B].equal(before[B])


@pytest.mark.parametrize(("option", "expected"), [([], True), (["--no-check-finite"], False)])
def test_the_command_line_passes_it_on(monkeypatch, option, expected):
    seen = []
    monkeypatch.setattr(Launch, "run", lambda self, command, module: seen.append(self))
    done = CliRunner().invoke(app, ["run", "--method", "lora", *option, "--", "train.py"])
    assert done.exit_code == 0
    assert seen[0].check_finite is expected


def test_a_launched_trainer_is_told(tmp_path):
    launched = Launch([Lora()], check_finite=False)
    assert ftplug.training.script.LaunchedCallback(launched).run.check_finite is False


# What does not move


SCHEDULES = {
    "lisa": Lisa(layers=1, period=1),
    "gradual-unfreezing": GradualUnfreezing(),
    "bitfit": BitFit(),
}


# Not LoRA by SGD: of A, whose gradient is as small as B, some tensors do not move in ten steps.
ALARMS = [(m, o) for m in (*METHODS, *SCHEDULES) for o in ("adamw_torch", "sgd")]
ALARMS.remove(("lora", "sgd"))


@pytest.mark.parametrize(("method", "optim"), ALARMS)
def test_what_moves_raises_no_alarm(tmp_path, caplog, method, optim):
    options = {"warmup_steps": 2, "optim": optim, "save_strategy": "no", "max_steps": 12}
    bound = trainer(tiny.bert(), tmp_path, **options)
    rate = "suggested" if optim == "adamw_torch" else 0.5  # what is suggested is for AdamW
    if method in METHODS:
        ftplug.attach(bound, method, lr=rate, **METHODS[method])
    else:
        ftplug.attach(bound, SCHEDULES[method], lr=rate)
    bound.train()
    assert bound.ftplug.movement.still == {}
    assert "gradient" not in caplog.text


@dataclass(frozen=True, eq=False)
class Unused(Method):
    """Add a parameter that the forward never reads."""

    name = "unused"
    kind = "structure"

    @hookimpl
    def prepare_model(self, model):
        model.register_parameter("spare", nn.Parameter(torch.ones(3)))

    @hookimpl
    def select_trainable(self, model):
        return ["spare"]


def test_a_tensor_without_gradient_is_named_once(tmp_path, caplog):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", logging_steps=4, max_steps=12)
    ftplug.attach(bound, Unused()).train()
    assert caplog.text.count("unused: spare got no gradient in the first 4 steps") == 1
    assert "classifier" not in caplog.text


def test_a_short_logging_period_does_not_hide_it(tmp_path, caplog):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", logging_steps=1, max_steps=12)
    ftplug.attach(bound, Unused()).train()
    assert caplog.text.count("unused: spare got no gradient in the first 10 steps") == 1


def test_it_is_named_at_the_end_where_nothing_was_logged(tmp_path, caplog):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", logging_strategy="no", max_steps=4)
    ftplug.attach(bound, Unused()).train()
    assert "spare got no gradient in the first 4 steps" in caplog.text


def test_updates_too_small_for_the_weights_are_named(tmp_path, caplog):
    options = {"save_strategy": "no", "logging_steps": 5, "max_steps": 5, "learning_rate": 1e-6}
    with torch.no_grad():
        model = tiny.bert()
        for parameter in model.parameters():
            parameter.fill_(1.0).add_(torch.randn(parameter.shape) * 0.1)
    ftplug.attach(trainer(model.bfloat16(), tmp_path, **options), "full").train()
    assert "too small for torch.bfloat16" in caplog.text
    assert "classifier.weight" in caplog.text or "(3" in caplog.text


def test_movement_waits_for_a_factor_that_starts_at_zero_and_for_the_warm_up():
    live = {"a": nn.Parameter(torch.ones(2)), "idle": nn.Parameter(torch.ones(2))}
    live["idle"].requires_grad_(False)  # a schedule's
    movement = Movement(tuple(live))

    def step(gradient, rate):
        live["a"].grad = torch.full((2,), gradient)
        movement.before_step(live)
        with torch.no_grad():
            live["a"] -= rate * live["a"].grad
        movement.after_step(live, rate)

    step(1.0, 0.0)  # warm-up
    step(0.0, 0.1)  # its other factor is still zero
    assert movement.still == {"a": 1, "idle": 0}
    step(1.0, 0.1)
    assert movement.still == {"idle": 0}


def test_check_finite_is_not_a_methods_setting(tmp_path):
    with pytest.raises(MethodError, match="check"):
        ftplug.apply(copy.deepcopy(tiny.bert()), "lora", check_finite=True)
