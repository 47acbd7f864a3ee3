"""Nothing wasted: no full state dict, no hook call for nothing, no walk that a Trainer has not."""

import pytest
import tiny
from runs import METHODS, trainer
from torch import nn

import ftplug
from ftplug.host import Host
from ftplug.training.numerics import WATCHED_STEPS

SMALL = {name: METHODS.get(name, {}) for name in ("lora", "freeze", "bitfit", "bottleneck")}
methods = pytest.mark.parametrize("method", SMALL)


def whole_run(tmp_path, method):
    """Train with checkpoints, evaluation and the best model, then save the artifact."""
    options = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 3, "max_steps": 6}
    bound = trainer(tiny.bert(), tmp_path, load_best_model_at_end=True, **options)
    ftplug.attach(bound, method, **SMALL[method])
    bound.train()
    bound.save_model(tmp_path / "artifact")
    assert bound.state.best_model_checkpoint is not None
    return bound


@methods
def test_no_full_state_dict_is_built(tmp_path, monkeypatch, method):
    built, state_dict = [], nn.Module.state_dict

    def noted(self, *args, **kwargs):
        built.append(self)
        return state_dict(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "state_dict", noted)
    bound = whole_run(tmp_path, method)
    assert bound.model not in built
    assert bound.model.bert not in built


@methods
def test_steps_call_no_hook_that_nobody_implements(tmp_path, monkeypatch, method):
    called = []

    def noting(inner):
        def noted(self, hook, **arguments):
            called.append(hook)
            return inner(self, hook, **arguments)

        return noted

    for name in ("call", "call_each"):
        monkeypatch.setattr(Host, name, noting(getattr(Host, name)))
    whole_run(tmp_path, method)
    assert "select_trainable" in called
    assert not {"schedule_trainable", "build_optimizer", "on_gradients", "on_step"} & {*called}


def walks(bound, monkeypatch):
    """Count, per step once movement is no longer watched, how often the whole model is walked."""
    counts, named_modules = [0], nn.Module.named_modules

    def noted(self, *args, **kwargs):
        counts[-1] += self is bound.model
        return named_modules(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "named_modules", noted)
        patch.setattr(bound, "training_step", counted(bound.training_step, counts))
        bound.train()
    return counts[WATCHED_STEPS + 2 : -1]


def counted(training_step, counts):
    def begin(*args, **kwargs):
        counts.append(0)
        return training_step(*args, **kwargs)

    return begin


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
@pytest.mark.parametrize("method", ["full", *SMALL])
def test_a_step_walks_through_the_model_as_often_as_a_trainers(
    tmp_path, monkeypatch, method, max_grad_norm
):
    options = {"save_strategy": "no", "max_grad_norm": max_grad_norm}
    plain = trainer(tiny.bert(), tmp_path, **options)
    expected = walks(plain, monkeypatch)
    bound = trainer(tiny.bert(), tmp_path, **options)
    ftplug.attach(bound, method, **METHODS.get(method, {}))
    found = walks(bound, monkeypatch)
    assert len(found) == 20 - WATCHED_STEPS - 2
    assert found == expected
