"""L2-SP: the gradient of the penalty, from the base's values, in a resumed run too."""

import copy

import pytest
import tiny
import torch
from ftplug_plugins.l2_sp import L2Sp
from ftplug_plugins.lisa import Lisa
from halves import straight_and_resumed
from runs import by_hand, losses, same, shake, trainer, weights
from transformers import BertForSequenceClassification, TrainerCallback

import ftplug
from ftplug.testing import run_view

ALPHA, BETA = 3.0, 0.5


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny.bert("Model", dropout=0.1).save_pretrained(folder)
    return folder


def from_checkpoint(folder):
    torch.manual_seed(1)  # the same fresh head each time
    return BertForSequenceClassification.from_pretrained(folder)


def test_twenty_steps_equal_a_loop_with_the_penalty_in_its_loss(tmp_path):
    base = tiny.bert()
    options = {"save_strategy": "no", "train_sampling_strategy": "sequential"}
    bound = trainer(copy.deepcopy(base), tmp_path, max_grad_norm=0.0, **options)
    ftplug.attach(bound, "l2-sp", alpha=ALPHA, beta=BETA).train()

    model = copy.deepcopy(base).train()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)

    def penalty():
        return sum(
            BETA / 2 * p.square().sum()
            if "classifier" in name
            else ALPHA / 2 * (p - start[name]).square().sum()
            for name, p in model.named_parameters()
        )

    found = by_hand(model, optimizer, penalty=penalty, clip=None)
    assert losses(bound) == pytest.approx(found, abs=1e-5)
    free = trainer(copy.deepcopy(base), tmp_path, max_grad_norm=0.0, **options)
    ftplug.attach(free, "full").train()
    assert losses(bound)[-1] != pytest.approx(losses(free)[-1], abs=1e-3)


def distance(model, base):
    return sum(
        (p - base[n]).square().sum() for n, p in weights(model).items() if "classifier" not in n
    )


def test_the_pull_keeps_the_model_near_its_start_and_the_head_small(tmp_path):
    found = {}
    for pull in (0.0, 10.0):
        bound = trainer(tiny.bert(), tmp_path, save_strategy="no", optim="sgd", learning_rate=0.05)
        base = weights(bound.model)
        ftplug.attach(bound, L2Sp(alpha=pull, beta=pull)).train()
        found[pull] = distance(bound.model, base), bound.model.classifier.weight.norm()
    assert found[10.0][0] < 0.3 * found[0.0][0]
    assert found[10.0][1] < 0.3 * found[0.0][1]


def test_new_modules_are_pulled_to_zero_and_a_frozen_base_is_let_alone(tmp_path):
    bound = trainer(tiny.bert(), tmp_path, save_strategy="no", max_steps=1)
    ftplug.attach(bound, "lora", L2Sp(alpha=ALPHA, beta=BETA))
    model, seen = bound.model, {}
    hook = L2Sp(alpha=ALPHA, beta=BETA)
    shake(model)
    model(**tiny.inputs(model)).loss.backward()
    for name, p in model.named_parameters():
        if p.requires_grad:
            seen[name] = p.grad.clone()
    hook.on_gradients(model, run_view(model, hook))
    for name, p in model.named_parameters():
        if name in seen:
            assert torch.allclose(p.grad, seen[name] + BETA * p), name
        else:
            assert p.grad is None


@pytest.mark.parametrize("kind", ["from a checkpoint", "from a config"])
def test_a_resumed_run_is_pulled_to_the_base_not_to_where_it_stopped(tmp_path, checkpoint, kind):
    def make():
        config = kind == "from a config"
        return tiny.bert(dropout=0.1) if config else from_checkpoint(checkpoint)

    straight, resumed = straight_and_resumed(make, tmp_path, L2Sp(alpha=ALPHA, beta=BETA))
    assert same(weights(straight.model), weights(resumed.model))


def test_disabled_still_gives_the_base_afterwards(tmp_path, checkpoint):
    from runs import logits

    model = from_checkpoint(checkpoint)
    expected = logits(model)
    bound = trainer(model, tmp_path, save_strategy="no", max_steps=3)
    ftplug.attach(bound, "l2-sp").train()
    trained = logits(model)
    with ftplug.disabled(model):
        assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), trained)


class MovedLayers(TrainerCallback):
    """Records which layers moved in each step."""

    def __init__(self):
        self.steps = []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = weights(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        moved = {n for n, value in weights(model).items() if not value.equal(self.before[n])}
        self.steps.append({n.split(".")[3] for n in moved if ".layer." in n})


def test_it_goes_with_schedules_and_optimizers(tmp_path):
    seen = {}
    for pull in (0.0, 10.0):
        moved = MovedLayers()
        bound = trainer(tiny.bert(), tmp_path, callbacks=[moved], save_strategy="no", optim="sgd",
                        learning_rate=0.05)  # fmt: skip
        base = weights(bound.model)
        lisa = Lisa(layers=1, period=2)
        ftplug.attach(bound, lisa, L2Sp(alpha=pull, beta=0.0), "layerwise-lr").train()
        rates = {group["initial_lr"] for group in bound.optimizer.param_groups}
        seen[pull] = distance(bound.model, base), moved.steps, rates
    (free, drawn, rates), (pulled, *others) = seen[0.0], seen[10.0]
    assert others == [drawn, rates]  # a pull moves no layer whose turn it is not
    assert all(len(layers) == 1 for layers in drawn)
    assert len(set.union(*drawn)) == tiny.LAYERS == len(rates) - 2
    assert pulled < 0.5 * free
