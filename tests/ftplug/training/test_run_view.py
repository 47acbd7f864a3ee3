"""The run view within a Trainer: the same facts as outside, and what the Trainer adds."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny
import torch
from runs import StopAt, losses, trainer

import ftplug
from ftplug import Method, MethodError, hookimpl
from ftplug.testing import run_view


@dataclass(frozen=True, eq=False)
class Watcher(Method):
    """Notes what hooks are given, and logs the step."""

    name: ClassVar[str] = "watcher"
    kind: ClassVar = "regularizer"
    seen: ClassVar[list] = []

    @hookimpl
    def prepare_model(self, model, run):
        assert run.args is not None
        assert run.loading == next(model.parameters()).is_meta
        with pytest.raises(MethodError, match=r"watcher: run\.may_train is known once"):
            run.may_train  # noqa: B018

    @hookimpl
    def finish_model(self, run):
        assert run.may_train == frozenset(run.saved)
        with pytest.raises(MethodError, match=r"run\.base_values comes after finish_model"):
            run.base_values(run.may_train)

    @hookimpl
    def on_gradients(self, model, step, run):
        self.seen.append((step, run.seed, run.total_steps, run.trains_in(step) == run.may_train))
        start = run.base_values(run.may_train - run.added)
        assert start.keys() == run.may_train

    @hookimpl
    def on_step(self, model, step, run):
        run.state["count"] = run.state.get("count", torch.zeros(())) + 1
        run.log(steps_seen=float(run.state["count"]), halves=float(run.reduce(torch.tensor(0.5))))


def watched(tmp_path, **options):
    made = ftplug.attach(trainer(tiny.bert(), tmp_path, **options), Watcher())
    Watcher.seen.clear()
    return made


def test_the_trainers_facts_are_there(tmp_path):
    made = watched(tmp_path, max_steps=4, seed=7, save_strategy="no")
    made.train()
    assert Watcher.seen == [(step, 7, 4, True) for step in range(4)]


def test_what_is_logged_goes_along_with_the_loss_and_into_the_manifest(tmp_path):
    made = watched(tmp_path, max_steps=4, logging_steps=2, save_strategy="no")
    made.train()
    entries = [log for log in made.state.log_history if "loss" in log]
    assert [log["steps_seen"] for log in entries] == [2, 4]
    assert {log["halves"] for log in entries} == {0.5}
    assert not any("steps_seen" in log for log in made.state.log_history if "loss" not in log)
    made.save_model(str(tmp_path / "artifact"))
    manifest = json.loads((tmp_path / "artifact" / "ftplug.json").read_text())
    assert [point["steps_seen"] for point in manifest["training"]["history"]["train"]] == [2, 4]


def test_the_trainers_own_names_are_refused(tmp_path):
    run = watched(tmp_path).ftplug
    for name in ("loss", "learning_rate", "eval_accuracy"):
        with pytest.raises(MethodError, match=f"run.log: {name!r} is the Trainer's own"):
            run.log({name: 1.0})


def test_without_a_trainer_logs_go_into_the_manifest(tmp_path):
    model = ftplug.apply(tiny.bert(), "lora")
    view = run_view(model, "lora")
    view.log(rank=4)
    view.log(rank=2)
    assert view.reduce(value := torch.ones(2)) is value
    assert view.args is None
    ftplug.save(model, tmp_path / "a")
    manifest = json.loads((tmp_path / "a" / "ftplug.json").read_text())
    assert manifest["training"]["history"]["train"] == [{"rank": 4.0}, {"rank": 2.0}]


@pytest.mark.parametrize("value", ["many", None, torch.ones(2)])
def test_what_is_not_one_number_is_not_logged(value):
    model = ftplug.apply(tiny.bert(), "lora")
    with pytest.raises(MethodError, match=r"lora: run\.log: rank=.* is not one number"):
        run_view(model, "lora").log(rank=value)


def test_base_values_are_refused_for_what_the_base_lacks():
    model = ftplug.apply(tiny.bert(), "lora")
    view = run_view(model, "lora")
    assert view.base.fresh == {"classifier.weight", "classifier.bias"}
    with pytest.raises(MethodError, match=r"lora_A.* is no parameter of the base that may train"):
        view.base_values(view.added)


def test_a_hook_wrapper_is_refused():
    class Around(Method):
        name = "around"

        @hookimpl(wrapper=True)
        def prepare_model(self, model):
            return (yield)

    with pytest.raises(ftplug.PluginError, match=r"around.*prepare_model is a hook wrapper"):
        ftplug.apply(tiny.bert(), Around())


@pytest.mark.parametrize("step", [1, 3])
def test_a_resumed_run_goes_on_logging(tmp_path, step):
    straight = watched(tmp_path / "a", max_steps=6, save_strategy="no")
    straight.train()
    stopped = watched(tmp_path / "b", max_steps=6, save_strategy="no", callbacks=[StopAt(step)])
    stopped.train()
    resumed = watched(tmp_path / "b", max_steps=6, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / f"checkpoint-{step}"))
    assert losses(resumed) == losses(straight)
    counted = [log["steps_seen"] for log in resumed.state.log_history if "steps_seen" in log]
    assert counted == [1, 2, 3, 4, 5, 6]


def test_the_number_of_steps_is_known_where_epochs_are_given(tmp_path):
    made = watched(tmp_path, max_steps=-1, num_train_epochs=1, save_strategy="no")
    made.train()
    assert {(total, all_train) for _, _, total, all_train in Watcher.seen} == {(8, True)}


def test_a_schedule_is_seen_by_other_methods(tmp_path):
    @dataclass(frozen=True, eq=False)
    class Listener(Method):
        name: ClassVar[str] = "listener"
        kind: ClassVar = "regularizer"
        trained: ClassVar[list] = []

        @hookimpl
        def on_gradients(self, model, step, run):
            live = {name for name, p in model.named_parameters() if p.requires_grad}
            self.trained.append(run.trains_in(step) == live)
            self.trained.append(len(live) < len(run.may_train))

    ftplug.attach(
        trainer(tiny.bert(), tmp_path, max_steps=-1, num_train_epochs=1, save_strategy="no"),
        "lisa", Listener(), **{"lisa.layers": 1, "lisa.period": 1},
    ).train()  # fmt: skip
    assert Listener.trained
    assert all(Listener.trained)
