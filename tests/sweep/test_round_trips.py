"""A seeded fortieth of the round trips over transformers' classes (tools/round_trip.py)."""

import json

import pytest
import round_trip
import sweep
import sweep_page
import tiny
import torch
import transformers
import trial

import ftplug

CLASSES = json.loads(sweep_page.RESULTS.read_text(encoding="utf-8"))["classes"]
BUILT = {name: line.rpartition(" ")[0] for name, line in CLASSES.items()}
FORTIETH = sweep.shuffled(BUILT)[7::40]
SETTINGS = list(round_trip.SETTINGS)
THERE = set(dir(transformers))


@pytest.mark.filterwarnings("ignore")  # of the models: of their own deprecations
@pytest.mark.parametrize(("index", "name", "task"), [(i, *pair) for i, pair in enumerate(FORTIETH)])
def test_what_is_saved_comes_back_on_every_architecture(index, name, task, monkeypatch):
    if name not in THERE:
        pytest.skip(f"no {name} in transformers {transformers.__version__}")
    monkeypatch.setattr(round_trip, "SECONDS", 10 * round_trip.SECONDS)  # a busy machine
    setting = SETTINGS[index % len(SETTINGS)]
    assert dict(round_trip.tried(name, task, [setting])) == {setting: []}


def test_a_refusal_is_no_fault_and_an_error_is_one(monkeypatch):
    model, batch = trial.fitting("BertModel", "no head")
    assert round_trip.faults(model, batch, "lora") == []
    refused = {"lora": {"target_modules": ("nowhere",)}}
    monkeypatch.setattr(round_trip, "SETTINGS", refused)
    assert round_trip.faults(model, batch, "lora") == []
    monkeypatch.setattr(round_trip, "faults", lambda *given: 1 / 0)
    [(_, [said])] = round_trip.tried("BertModel", "no head", ["lora"])
    assert said.startswith("ZeroDivisionError")


def test_each_thing_that_is_not_as_it_was_is_named(monkeypatch):
    model = tiny.bert().eval()
    batch = tiny.inputs(model)
    load = ftplug.load

    def spoilt(base, artifact, **options):
        loaded = load(base, artifact, **options)
        with torch.no_grad():
            for one in (loaded, base):
                next(one.parameters()).add_(0.1)
        return loaded

    def undone(model):
        return round_trip._move(model) or model

    monkeypatch.setattr(ftplug, "load", spoilt)
    monkeypatch.setattr(ftplug, "detach", undone)
    assert round_trip.faults(model, batch, "bitfit") == [
        "loaded, it answers otherwise",
        "on a shared base it answers otherwise",
        "the base that it shares answers otherwise",
        "detached, it answers otherwise",
        "detached, it has other values",
    ]
