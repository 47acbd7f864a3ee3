"""APOLLO: equal to its algorithm and to the authors' package, small state, resumable."""

import math

import pytest
import tiny
import torch
from ftplug_plugins.apollo import Apollo
from ftplug_plugins.shared.low_rank_adamw import ApolloAdamW
from halves import straight_and_resumed
from optimizers import groups, parameters, replaced, steps
from runs import losses, same, trainer, weights

import ftplug
from ftplug import MethodError

SETTINGS = {"rank": 4, "update_proj_gap": 3, "scale": 2.0}
ADAM = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8}
TYPES = pytest.mark.parametrize("scale_type", ["channel", "tensor"])


def drawn(index, refresh, group, gradient):
    return ApolloAdamW.projection(None, group, gradient, index, refresh)


@TYPES
def test_equals_the_authors_package_on_equal_projections(scale_type):
    package = pytest.importorskip("apollo_torch", reason="its licence excludes commercial use")
    from apollo_torch.random_projector import GradientProjector

    mine, theirs = parameters(), parameters()
    ours = ApolloAdamW(groups(mine, **SETTINGS, scale_type=scale_type), **ADAM)
    options = {"proj": "random", "proj_type": "std", "scale_type": scale_type}
    reference = package.APOLLOAdamW(groups(theirs, **SETTINGS, **options), **ADAM)
    done = {}

    def ours_instead(self, gradient, rank, type, seed):
        count = done[id(self)] = done.get(id(self), -1) + 1
        index = next(i for i, p in enumerate(theirs) if reference.state[p].get("projector") is self)
        p = drawn(index, count, {"seed": 0, "rank": rank}, gradient)
        return p if type == "right" else p.T

    with replaced(GradientProjector, "get_orthogonal_matrix", ours_instead):
        expected = steps(reference, theirs, 10)
    for a, b in zip(steps(ours, mine, 10), expected, strict=True):
        for one, other in zip(a, b, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


@TYPES
def test_equals_the_published_algorithm(scale_type):
    # Algorithm 1 of the paper for a tall weight, with the norm-growth limiter of section 4.3.
    given = parameters()[:1]
    w, m, v, last = given[0].detach().clone(), 0.0, 0.0, None
    group = {"params": given, "weight_decay": 0.1, **SETTINGS, "scale_type": scale_type}
    optimizer = ApolloAdamW([group], **ADAM)
    found = []
    for step in range(10):
        g = torch.randn(24, 16, generator=torch.Generator().manual_seed(step)) * (1 + step % 3)
        given[0].grad = g.clone()
        optimizer.step()
        found.append(given[0].detach().clone())
        p = drawn(0, step // 3, {"seed": 0, "rank": 4}, g)
        r = g @ p.T
        m, v = 0.9 * m + 0.1 * r, 0.99 * v + 0.01 * r * r
        adam = m / (v.sqrt() + 1e-8)
        dims = {"dim": 1, "keepdim": True} if scale_type == "channel" else {}
        update = g * adam.norm(**dims) / r.norm(**dims)
        if last is not None and update.norm() > 1.01 * last:
            update = update * 1.01 * last / update.norm()
        last = update.norm()
        rate = 1e-2 * math.sqrt(1 - 0.99 ** (step + 1)) / (1 - 0.9 ** (step + 1))
        w = (w - rate * math.sqrt(2.0) * update) * (1 - 1e-2 * 0.1)
        assert torch.allclose(found[-1], w, atol=1e-5), step


def test_projections_are_normal_and_drawn_from_seed_place_and_refresh():
    gradient, group = torch.zeros(400, 300), {"seed": 3, "rank": 100}
    first = drawn(0, 0, group, gradient)
    assert first.shape == (100, 300)
    assert torch.equal(first, drawn(0, 0, group, gradient))
    for other in (drawn(1, 0, group, gradient), drawn(0, 1, group, gradient),
                  drawn(0, 0, group | {"seed": 4}, gradient)):  # fmt: skip
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 0.03
    assert first.std() == pytest.approx(0.1, rel=0.02)  # 1 / sqrt(rank)
    assert abs(first.mean()) < 0.002


def test_the_state_is_as_small_as_the_rank_says(tmp_path):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", max_steps=2)
    ftplug.attach(bound, Apollo(rank=1, scale_type="tensor", scale=128.0)).train()
    for parameter, state in bound.optimizer.state.items():
        held = sum(v.numel() for v in state.values() if isinstance(v, torch.Tensor))
        low, high = min(parameter.shape), max(parameter.shape)
        expected = low + 2 * high + 1 if "projection" in state else 2 * parameter.numel()
        assert held == expected
    assert sum("projection" in s for s in bound.optimizer.state.values()) == 6 * tiny.LAYERS


def test_the_runs_seed_draws_and_everything_moves(tmp_path):
    found = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        options = {"save_strategy": "no", "max_steps": 5, "data_seed": 7, "seed": seed}
        bound = trainer(tiny.bert(), tmp_path, **options)
        start = weights(bound.model)
        ftplug.attach(bound, Apollo(rank=4)).train()
        found[name] = losses(bound)
        assert {n for n, x in weights(bound.model).items() if not x.equal(start[n])} == set(start)
    assert found["a"] == found["b"] != found["c"]


def test_resumed_equals_uninterrupted(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, Apollo(**SETTINGS), weight_decay=0.1
    )
    assert same(weights(straight.model), weights(resumed.model))


def test_beside_lora(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, "lora", Apollo(rank=2)
    )
    assert same(weights(straight.model), weights(resumed.model))
    assert any("projection" in state for state in resumed.optimizer.state.values())


def test_what_does_not_fit_is_refused(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path), Apollo())
    with pytest.raises(MethodError, match="apollo: rank=128, but no weight"):
        bound.train()
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, optim="sgd"), Apollo(rank=4))
    with pytest.raises(MethodError, match="optim=sgd would have no effect"):
        bound.train()
    with pytest.raises(MethodError, match="scale_type"):
        Apollo(scale_type="row")
