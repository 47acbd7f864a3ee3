"""A model that is asked within ``without_a_trace`` is afterwards what it was before."""

import random

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from ftplug.attaching import probing
from ftplug.attaching.probing import without_a_trace


class Part(nn.Module):
    """Holds of everything that a forward may change."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.arange(3.0))
        self.inner = nn.Identity()
        self.seen = 0
        self.handle = self.register_forward_hook(lambda *_: None)


CHANGES = {
    "an attribute": lambda part: setattr(part, "seen", 1),
    "a new attribute": lambda part: setattr(part, "more", 1),
    "an attribute less": lambda part: delattr(part, "seen"),
    "a buffer's values": lambda part: part.table.add_(1),
    "another buffer": lambda part: setattr(part, "table", torch.zeros(3)),
    "no buffers": lambda part: part._buffers.clear(),
    "another name": lambda part: part._buffers.update(renamed=part._buffers.pop("table")),
    "another part": lambda part: setattr(part, "inner", nn.Identity()),
    "no parts": lambda part: part._modules.clear(),
    "a hook": lambda part: part.register_forward_pre_hook(lambda *_: None),
    "a hook less": lambda part: part.handle.remove(),
    "training": lambda part: part.train(),
}


def state(part):
    """Return the very objects that a part holds, and what its buffers hold."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    held = {name: list(map(id, vars(part)[name].values())) for name in ("_modules", *hooks)}
    own = {name: id(value) for name, value in vars(part).items() if name not in hooks}
    return own, held, {n: (id(b), b.tolist()) for n, b in part._buffers.items()}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("training", [True, False])
def test_what_a_forward_changes_is_put_back(what, training):
    model = tiny.bert().train(training)
    model.part = Part().train(training)
    before = state(model.part)
    with without_a_trace(model):
        assert not any(module.training for module in model.modules())
        CHANGES[what](model.part)
    assert state(model.part) == before
    assert all(module.training is training for module in model.modules())


def test_nothing_changes_where_the_forward_fails():
    model = tiny.bert().train()
    model.part = Part()
    before = state(model.part)

    def fails():
        with without_a_trace(model):
            CHANGES["no parts"](model.part)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert state(model.part) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_a_model_writes_greedily_and_has_its_own_config_afterwards(own, shared, monkeypatch):
    """Of a model that processes share, too, whose attributes are the engine's and stay."""
    monkeypatch.setattr(probing, "is_shard", lambda _: shared)
    model = tiny.llama()
    if own:
        model.generation_config.do_sample = True
        model.generation_config.num_beams = 4
    else:
        del model.generation_config
    before = vars(model).get("generation_config")
    with without_a_trace(model):
        assert not model.generation_config.do_sample
        assert model.generation_config.num_beams in (None, 1)
    assert vars(model).get("generation_config") is before
    assert ("generation_config" in vars(model)) is own


def test_random_numbers_are_the_same_within_and_go_on_afterwards():
    model = tiny.bert()

    def seeded():
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)

    def drawn():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    seeded()
    following = drawn()
    seeded()
    within = []
    for _ in range(2):
        with without_a_trace(model):
            within.append(drawn())
    assert within[0] == within[1] != following
    assert drawn() == following


def test_buffers_that_were_made_in_inference_mode_are_put_back_outside_of_it():
    with torch.inference_mode():
        model = tiny.bert()
        places = model.bert.embeddings.position_ids
    before = places.clone()
    with without_a_trace(model), torch.inference_mode():
        places.add_(1)
    assert places.is_inference()
    assert places.equal(before)
