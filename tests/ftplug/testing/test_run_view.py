"""``run``: the same view in a Trainer, after ``apply``, while loading, and by ``run_view``."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import pytest
import tiny
import torch
from scale import Scale, feed_forwards

import ftplug
from ftplug import MethodError, hookimpl
from ftplug.attaching.attachment import require_attachment
from ftplug.testing import Case, run_view
from ftplug.testing.compare import base_model
from ftplug.testing.run import STEPS

HEAD = {"classifier.weight", "classifier.bias"}


def asked(run, **calls):
    """Return what each attribute of a view answers: the value, or what it says instead."""
    calls = {
        "may_train": lambda: run.may_train,
        "added": lambda: run.added,
        "saved": lambda: run.saved,
        "trains_in": lambda: run.trains_in(1),
        "base_values": lambda: {n: t.clone() for n, t in run.base_values(HEAD).items()},
    } | calls
    found = {
        name: getattr(run, name)
        for name in ("seed", "args", "task", "total_steps", "loading", "base", "state")
    }
    found["reduced"] = run.reduce(torch.tensor([1.0, 3.0]))
    for name, call in calls.items():
        try:
            found[name] = call()
        except MethodError as error:
            found[name] = str(error)
    return found


@dataclass(frozen=True, eq=False)
class Asks(Scale):
    """Asks for everything in every hook; ``heard`` has what each was told first."""

    name = "asks"
    heard: ClassVar[dict] = {}

    def hear(self, hook, model, run, **calls):
        if model.device.type == "meta" and hook != "load_artifact":
            return  # it is rehearsed
        self.heard.setdefault(hook, asked(run, **calls))
        run.log(asked=1, **{hook: 2})
        steps = run.state.setdefault("steps", torch.tensor(0))
        if hook == "on_step":
            steps += 1

    @hookimpl
    def prepare_model(self, model, run):
        Scale.prepare_model(self, model)
        self.hear("prepare_model", model, run)

    @hookimpl
    def select_trainable(self, model, run):
        self.hear("select_trainable", model, run)
        return Scale.select_trainable(self, model)

    @hookimpl
    def finish_model(self, model, run):
        self.hear("finish_model", model, run)

    @hookimpl
    def schedule_trainable(self, model, step, run):
        # Not trains_in, which asks this hook.
        self.hear("schedule_trainable", model, run, trains_in=lambda: None)
        names = Scale.select_trainable(self, model)
        return names if step % 2 else names[:1]

    @hookimpl
    def build_optimizer(self, model, run):
        self.hear("build_optimizer", model, run)

    @hookimpl
    def on_gradients(self, model, run):
        self.hear("on_gradients", model, run)

    @hookimpl
    def on_step(self, model, run):
        self.hear("on_step", model, run)

    @hookimpl
    def save_artifact(self, model, run):
        self.hear("save_artifact", model, run)

    @hookimpl
    def load_artifact(self, model, run):
        # Not base_values: this model has none.
        self.hear("load_artifact", model, run, base_values=lambda: None)

    @hookimpl
    def disable_model(self, model, run):
        self.hear("disable_model", model, run)
        return nullcontext()

    @hookimpl
    def merge_model(self, model, run):
        self.hear("merge_model", model, run)
        Scale.merge_model(self, model)


@pytest.fixture(autouse=True)
def heard():
    Asks.heard.clear()
    return Asks.heard


SCALES = {
    f"bert.encoder.layer.{n}.output.dense.scale" for n in range(2)
}  # what the method adds to a BERT of two layers
LATER = ("finish_model", "schedule_trainable", "build_optimizer", "on_gradients", "on_step")


def check_known(found, *, trains_in=SCALES | HEAD):
    """What is known once every method has chosen, on the tiny BERT."""
    assert found["may_train"] == SCALES | HEAD
    assert found["added"] == SCALES
    assert set(found["saved"]) == SCALES | HEAD
    assert found["saved"][-2:] == ("classifier.weight", "classifier.bias")  # the model's order
    assert found["trains_in"] == trains_in


def check_always(found, *, seed=42, total_steps=None, loading=False):
    assert (found["seed"], found["task"]) == (seed, "text-classification")
    assert (found["total_steps"], found["loading"]) == (total_steps, loading)
    assert (found["base"].id, found["base"].revision) == (None, None)
    assert found["base"].fresh == HEAD
    assert found["reduced"].tolist() == [1, 3]


def check_not_yet(found):
    for name in ("may_train", "added", "saved", "trains_in", "base_values"):
        assert found[name] == (
            f"asks: run.{name} is known once every method has answered select_trainable: ask for "
            "it in finish_model or later"
        )


def check_base_values(found):
    base = dict(base_model("bert").named_parameters())
    assert found["base_values"].keys() == HEAD
    for name, value in found["base_values"].items():
        assert value.equal(base[name])


def test_every_hook_of_a_trainers_run_is_told_all_that_is_known(heard):
    case = Case(Asks)
    run = case.run
    with ftplug.disabled(run.model):
        pass
    ftplug.merge(case.trained())
    assert heard.keys() == {
        "prepare_model", "select_trainable", *LATER, "disable_model", "merge_model",
    }  # fmt: skip
    for hook in ("prepare_model", "select_trainable"):
        check_not_yet(heard[hook])
    for hook in ("prepare_model", *LATER):
        check_always(heard[hook], total_steps=STEPS)
        assert heard[hook]["args"].output_dir == str(run.folder)
    for hook in LATER:
        check_known(heard[hook], trains_in=None if hook == "schedule_trainable" else SCALES | HEAD)
    for hook in LATER[2:]:  # the schedule is asked by finish_model already, through trains_in
        check_base_values(heard[hook])
    assert heard["on_step"]["state"] is require_attachment(run.model).facts.states["asks"]


def test_trains_in_follows_every_methods_schedule():
    model = Case(Asks).run.model
    run = run_view(model, "asks")
    first = min(SCALES)
    assert [run.trains_in(step) - HEAD for step in range(3)] == [{first}, SCALES, {first}]
    with pytest.raises(MethodError, match=r"run.base_values: 'bert\S+' is no parameter of the"):
        run.base_values(["bert.pooler.dense.weight"])


def test_after_apply_there_is_no_trainer(heard):
    model = ftplug.apply(base_model("bert"), Asks(), seed=7)
    scalars = require_attachment(model).facts.surroundings.scalars
    # The probe has asked the base, for which the method was switched off.
    assert scalars == [
        {"asked": 1, "prepare_model": 2}, {"asked": 1, "select_trainable": 2},
        {"asked": 1, "finish_model": 2}, {"asked": 1, "disable_model": 2},
    ]  # fmt: skip
    for hook in ("prepare_model", "select_trainable", "finish_model"):
        check_always(heard[hook], seed=7)
        assert heard[hook]["args"] is None
    check_not_yet(heard["prepare_model"])
    check_not_yet(heard["select_trainable"])
    nobody_knows = (
        "asks: run.trains_in needs the number of steps of the run, which only a Trainer knows"
    )
    check_known(heard["finish_model"], trains_in=nobody_knows)
    assert heard["finish_model"]["base_values"] == "asks: run.base_values comes after finish_model"
    later = asked(run_view(model, "asks"))
    check_base_values(later)
    with torch.no_grad():
        model.classifier.weight += 1
    check_base_values(asked(run_view(model, "asks")))


def test_loading_says_so_and_starts_with_no_state(heard, tmp_path):
    model = ftplug.apply(base_model("bert"), Asks(), seed=7)
    run_view(model, "asks").state["steps"] += 5
    case = Case(Asks)
    with case.findable():
        ftplug.save(model, tmp_path)
        heard.clear()
        loaded = ftplug.load(base_model("bert"), tmp_path)
    check_known(heard["load_artifact"], trains_in=heard["finish_model"]["trains_in"])
    for hook in ("prepare_model", "load_artifact"):
        check_always(heard[hook], seed=0, loading=True)
    assert run_view(loaded, "asks").state == {"steps": torch.tensor(0)}


def test_run_view_is_what_hooks_are_given():
    method = Asks()
    model = ftplug.apply(tiny.bert(), method)
    run = run_view(model, method)
    method.on_step(model=model, run=run)
    method.on_step(model=model, run=run_view(model, "asks"))
    assert run_view(model, "asks").state["steps"] == 2
    wrapped = run_view(torch.nn.DataParallel(model), "asks")
    assert wrapped.state is run.state
    assert wrapped.base_values(HEAD).keys() == HEAD


def test_run_view_of_a_base_is_what_prepare_model_sees():
    model = base_model("bert")
    method = Asks()
    run = run_view(model, method)
    check_always(asked(run))
    check_not_yet(asked(run))
    method.prepare_model(model=model, run=run)
    assert {f"{n}.scale" for n, m in model.named_modules() if hasattr(m, "scale")} == SCALES
    assert len(list(feed_forwards(model))) == 2
    assert run_view(tiny.bert(), "lora").task == "text-classification"


def test_run_view_of_another_method_is_refused():
    model = ftplug.apply(tiny.bert(), "lora", "bitfit")
    with pytest.raises(MethodError, match=r"^run_view: the model carries lora \+ bitfit, not asks"):
        run_view(model, Asks())
