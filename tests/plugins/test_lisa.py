"""LISA: every layer drawn moves, no other does, and the optimizer's state stays bounded."""

from collections import Counter

import pytest
import tiny
from ftplug_plugins.lisa import Lisa
from halves import straight_and_resumed
from runs import same, trainer, weights
from transformers import TrainerCallback

import ftplug
from ftplug import MethodError
from ftplug.testing import run_view

DEPTH = 6


def deep():
    return tiny.bert(dropout=0.1, num_hidden_layers=DEPTH)


class Watch(TrainerCallback):
    """Records which layers moved in each step, and how many tensors the optimizer remembers."""

    def __init__(self):
        self.moved, self.outside, self.states, self.kept = [], [], [], []

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = weights(model)

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        moved = {n for n, v in weights(model).items() if not v.equal(self.before[n])}
        self.moved.append({int(n.split(".")[3]) for n in moved if ".layer." in n})
        self.outside.append({n for n in moved if ".layer." not in n})
        self.states.append(self.remembered(model, optimizer))

    def on_log(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.kept.append(self.remembered(model, optimizer))  # after ftplug's own on_step_end

    def remembered(self, model, optimizer):
        names = {p: n for n, p in model.named_parameters()}
        return {names[p] for p, s in optimizer.state.items() if s}


def run(out, method, seed=42, **options):
    watch = Watch()
    bound = trainer(deep(), out, callbacks=[watch], save_strategy="no", seed=seed, **options)
    ftplug.attach(bound, method)
    bound.train()
    return bound, watch


def test_only_the_drawn_layers_move_and_in_the_end_all_have(tmp_path):
    _, watch = run(tmp_path, Lisa(layers=2, period=2), max_steps=30)
    assert all(len(layers) == 2 for layers in watch.moved)
    periods = [watch.moved[i : i + 2] for i in range(0, 30, 2)]
    assert all(first == second for first, second in periods)
    assert set.union(*watch.moved) == set(range(DEPTH))
    outside = {n for n, _ in deep().named_parameters() if ".layer." not in n}
    assert all(moved == outside for moved in watch.outside)


def test_what_is_drawn_depends_on_seed_and_period_alone(tmp_path):
    method = Lisa(layers=2, period=5)

    def drawn(seed):
        model = ftplug.apply(deep(), method, seed=seed)
        run = run_view(model, method)
        trains = [method.schedule_trainable(model, step, run) for step in range(300)]
        layers = [
            frozenset(int(n.split(".")[3]) for n in names if ".layer." in n) for names in trains
        ]
        assert all(len(set(layers[i : i + 5])) == 1 for i in range(0, 300, 5))
        return layers[::5]

    assert drawn(1) == drawn(1) != drawn(2)
    counts = Counter(layer for layers in drawn(1) for layer in layers)
    # 60 draws of 2 in 6: 20 expected for each layer, standard deviation 3.7.
    assert all(abs(counts[layer] - 20) < 4 * 3.7 for layer in range(DEPTH))


def test_the_optimizer_remembers_active_layers_alone(tmp_path):
    bound, watch = run(tmp_path, Lisa(layers=1, period=3), max_steps=18)
    per_layer = sum(".layer.0." in n for n, _ in bound.model.named_parameters())
    outside = sum(".layer." not in n for n, _ in bound.model.named_parameters())
    assert max(len(names) for names in watch.states) == outside + per_layer
    # After the last step of a period the state of what goes inactive is gone already.
    for step in range(2, 17, 3):
        kept = {int(n.split(".")[3]) for n in watch.kept[step] if ".layer." in n}
        assert kept == watch.moved[step] & watch.moved[step + 1]


def test_other_methods_keep_their_state(tmp_path):
    watch = Watch()
    bound = trainer(deep(), tmp_path, callbacks=[watch], save_strategy="no", max_steps=6)
    ftplug.attach(bound, Lisa(layers=1, period=2), "lora")
    bound.train()
    lora = {n for n, _ in bound.model.named_parameters() if ".lora_" in n}
    assert all(lora <= names for names in watch.kept)
    state = bound.optimizer.state
    assert {int(state[p]["step"]) for n, p in bound.model.named_parameters() if n in lora} == {6}


@pytest.mark.parametrize("stop", [10, 11])  # in the middle of a period, and at its end
def test_resumed_equals_uninterrupted(tmp_path, stop):
    method = Lisa(layers=2, period=4 if stop == 10 else 11)
    straight, resumed = straight_and_resumed(deep, tmp_path, method, stop=stop, seed=3)
    assert same(weights(straight.model), weights(resumed.model))
    assert straight.state.log_history[-2] == resumed.state.log_history[-2]


def test_encoder_and_decoder_are_one_pool():
    method = Lisa(layers=1, period=1)
    model = ftplug.apply(tiny.t5(), method)
    drawn = set()
    for step in range(60):
        names = method.schedule_trainable(model, step, run_view(model, method))
        active = {n.rsplit(".layer.")[0] for n in names}
        layers = {n for n in active if ".block." in n}
        assert len(layers) == 1
        drawn |= layers
    assert drawn == {f"{s}.block.{i}" for s in ("encoder", "decoder") for i in range(2)}


def test_more_layers_than_there_are_and_full_beside_it_are_refused():
    with pytest.raises(MethodError, match=r"lisa: layers=3, but BertFor.* has 2: draw fewer"):
        ftplug.apply(tiny.bert(), "lisa", layers=3)
    with pytest.raises(MethodError, match="lisa: full trains the same parameters in every step"):
        ftplug.apply(tiny.bert(), "lisa", "full")
