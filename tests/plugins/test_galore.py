"""GaLore: equal to the authors' package, small state, and resumable where that package is not."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.galore import Galore
from ftplug_plugins.shared.low_rank_adamw import GaLoreAdamW
from halves import straight_and_resumed
from optimizers import groups, parameters, steps
from runs import losses, same, trainer, weights

import ftplug
from ftplug import MethodError

SETTINGS = {"rank": 4, "update_proj_gap": 3, "scale": 0.5}
ADAM = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8}


def test_equals_the_authors_package():
    package = pytest.importorskip("galore_torch", reason="pip install galore-torch")
    mine, theirs = parameters(), parameters()
    ours = GaLoreAdamW(groups(mine, **SETTINGS), **ADAM)
    reference = package.GaLoreAdamW(
        groups(theirs, **SETTINGS, proj_type="std"), **ADAM, no_deprecation_warning=True
    )
    for a, b in zip(steps(ours, mine, 10), steps(reference, theirs, 10), strict=True):
        for one, other in zip(a, b, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_equals_transformers_galore_in_a_run(tmp_path):
    pytest.importorskip("galore_torch", reason="pip install galore-torch")
    base = tiny.bert()
    ours = trainer(copy.deepcopy(base), tmp_path, save_strategy="no")
    ftplug.attach(ours, "galore", **SETTINGS).train()
    theirs = trainer(
        copy.deepcopy(base),
        tmp_path,
        save_strategy="no",
        optim="galore_adamw",
        optim_args="rank=4, update_proj_gap=3, scale=0.5",
        optim_target_modules=[r".*\.layer\..*"],
    )
    from ftplug_plugins.shared.low_rank_adamw import _matrices

    with pytest.warns(FutureWarning, match="This implementation of AdamW"):
        theirs.create_optimizer()
    names = {p: n for n, p in theirs.model.named_parameters()}
    low = next(g for g in theirs.optimizer.param_groups if "rank" in g)
    mine = _matrices("galore", ours.model, dict(ours.model.named_parameters()), 4)
    assert {names[p] for p in low["params"]} == mine
    for group in theirs.optimizer.param_groups:
        group["eps"] = 1e-8  # the package's default is 1e-6, the Trainer's 1e-8
    theirs.train()
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-5)
    assert losses(ours)[-1] != pytest.approx(losses(ours)[0], abs=1e-3)


def test_the_update_stays_in_the_subspace_of_the_gradient():
    # Independent of any package: a step changes a weight by a matrix of the rank, in its row space.
    given = parameters()
    before = [p.detach().clone() for p in given]
    optimizer = GaLoreAdamW([{"params": given[:3], **SETTINGS}], **ADAM)
    steps(optimizer, given, 1)
    for parameter, start in zip(given[:3], before, strict=False):
        change = parameter.detach() - start
        assert torch.linalg.matrix_rank(change, atol=1e-5) == 4
        left, _, right = torch.linalg.svd(parameter.grad, full_matrices=False)
        tall = parameter.shape[0] >= parameter.shape[1]
        basis = right[:4].T if tall else left[:, :4]
        inside = change @ basis @ basis.T if tall else basis @ basis.T @ change
        assert torch.allclose(inside, change, atol=1e-5)


def test_the_state_is_as_small_as_the_rank_says(tmp_path):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", max_steps=2)
    ftplug.attach(bound, Galore(rank=4)).train()
    names = {p: n for n, p in bound.model.named_parameters()}
    projected = 0
    for parameter, state in bound.optimizer.state.items():
        held = sum(v.numel() for v in state.values() if isinstance(v, torch.Tensor))
        if "projection" in state:
            low, high = sorted(parameter.shape)
            assert held == 4 * low + 2 * 4 * high, names[parameter]
            assert ".layer." in names[parameter]
            projected += 1
        else:
            assert held == 2 * parameter.numel()
    assert projected == 6 * tiny.LAYERS
    assert len(bound.optimizer.state) == len(names)


def test_resumed_equals_uninterrupted(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, Galore(**SETTINGS), weight_decay=0.1
    )
    assert same(weights(straight.model), weights(resumed.model))


@pytest.mark.parametrize(
    ("method", "settings"), [("lora", {"r": 8}), ("bottleneck", {"reduction_factor": 4})]
)
def test_beside_a_structure_method_its_matrices_are_projected(tmp_path, method, settings):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", max_steps=2)
    named = {f"{method}.{key}": value for key, value in settings.items()}
    ftplug.attach(bound, method, Galore(rank=2), **named)
    start = weights(bound.model)
    bound.train()
    names = {n for n, p in bound.model.named_parameters() if p.requires_grad}
    moved = {n for n, v in weights(bound.model).items() if not v.equal(start[n])}
    assert moved == names
    assert any("projection" in state for state in bound.optimizer.state.values())


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([Galore()], "rank=128, but no weight that trains has more than 32 rows"),
        (["lora", Galore(rank=8)], "has more than 8 rows"),
        (["bitfit", Galore(rank=2)], "has more than 0 rows"),
    ],
)
def test_a_rank_that_saves_nothing_is_refused(tmp_path, methods, message):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path), *methods)
    with pytest.raises(MethodError, match=message):
        bound.train()


def test_optim_beside_it_is_refused(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, optim="adafactor"), Galore(rank=4))
    with pytest.raises(MethodError, match="optim=adafactor would have no effect"):
        bound.train()
