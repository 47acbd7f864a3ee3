"""A function on a module is not copied with it: what it reaches of the base is refused."""

import weakref

import pytest
import tiny
import torch
from runs import logits, shake
from torch import nn

import ftplug
from ftplug import MethodError


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    model = shake(ftplug.apply(tiny.bert(), "lora", r=4), 0.3)
    return ftplug.save(model, tmp_path_factory.mktemp("lora"), probe=False)


class Keeper:
    """Has a part of a model, and no copy of it is made with the model's."""

    def __init__(self, part):
        self.part = part


def runs_by(reach):
    """Return what gives a base a forward that reaches its pooler's layer by way of ``reach``."""

    def make(base):
        held = reach(base.bert.pooler.dense)
        base.bert.pooler.forward = lambda states: torch.tanh(layer_in(held)(states[:, 0]))
        return base

    return make


def layer_in(held):
    while not isinstance(held, nn.Module):
        if isinstance(held, weakref.ref):
            held = held()
        elif isinstance(held, Keeper):
            held = held.part
        else:
            held = next(iter(held.values())) if isinstance(held, dict) else held[0]
    return held


def forward_of_a_global(states):
    return torch.tanh(in_a_helper()(states[:, 0]))


def in_a_helper():
    return GLOBAL["layer"]


GLOBAL = {}


def by_a_global(base):
    GLOBAL["layer"] = base.bert.pooler.dense
    base.bert.pooler.forward = forward_of_a_global
    return base


HELD = {
    "list": runs_by(lambda part: [[part]]),
    "dict": runs_by(lambda part: {"part": (part,)}),
    "object": runs_by(Keeper),
    "list of objects": runs_by(lambda part: [Keeper([part])]),
    "weak reference": runs_by(weakref.ref),
    "global": by_a_global,
}


@pytest.mark.parametrize("way", HELD)
def test_a_function_that_reaches_a_part_of_the_base_in_any_way(way, artifact):
    base = HELD[way](tiny.bert())
    expected = logits(base)
    with pytest.raises(MethodError, match=r"^share_base: forward of bert\.pooler is a function"):
        ftplug.load(base, artifact, share_base=True)
    assert torch.equal(logits(base), expected)
    GLOBAL.clear()


def test_objects_and_globals_of_a_hook_without_such_a_part_are_let_be(artifact):
    base = tiny.bert()
    GLOBAL["layer"] = nn.Linear(2, 2)
    kept = Keeper([torch.ones(2)])
    seen = []
    base.bert.register_forward_hook(lambda *_: seen.append((in_a_helper(), kept.part)))
    ftplug.load(base, artifact, share_base=True)
    GLOBAL.clear()
