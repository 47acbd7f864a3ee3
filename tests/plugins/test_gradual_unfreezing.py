"""Gradual unfreezing: top layer first, everything in the end, and nothing before its turn."""

import pytest
import tiny
from ftplug_plugins.gradual_unfreezing import GradualUnfreezing
from ftplug_plugins.shared.depth import from_the_top
from halves import straight_and_resumed
from runs import same, trainer, weights
from transformers import TrainerCallback

import ftplug
from ftplug import MethodError


class Moves(TrainerCallback):
    """Records in which step each tensor moved first."""

    def __init__(self):
        self.first = {}

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        self.before = weights(model)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        for name, value in weights(model).items():
            if not value.equal(self.before[name]):
                self.first.setdefault(name, state.global_step - 1)


def run(model, out, method, **options):
    seen = Moves()
    bound = trainer(model, out, callbacks=[seen], save_strategy="no", **options)
    ftplug.attach(bound, method)
    bound.train()
    return bound, seen.first


@pytest.mark.parametrize(
    ("make", "top", "bottom"),
    [
        (tiny.bert, ("bert.pooler.", "classifier."), "bert.embeddings."),
        (tiny.distilbert, ("pre_classifier.", "classifier."), "distilbert.embeddings."),
        (tiny.gpt2, ("transformer.ln_f.",), ("transformer.wte.", "transformer.wpe.")),
        (tiny.llama, ("model.norm.", "lm_head."), "model.embed_tokens."),
        (tiny.t5, ("encoder.final_", "decoder.final_", "lm_head."), "shared."),
        (tiny.vit, ("vit.layernorm.", "classifier."), "vit.embeddings."),
    ],
)
def test_groups_run_from_the_head_to_the_embeddings(make, top, bottom):
    model = make()
    groups = from_the_top(model, "test")
    assert len(groups) == tiny.LAYERS + 2
    assert all(name.startswith(top) for name in groups[0])
    assert all(name.startswith(bottom) for name in groups[-1])
    for depth, group in enumerate(groups[1:-1]):
        assert all(f".{tiny.LAYERS - 1 - depth}." in name for name in group)
    assert sorted(name for group in groups for name in group) == sorted(
        name for name, _ in model.named_parameters()
    )


def test_a_pooler_without_a_head_waits_for_no_layer():
    groups = from_the_top(tiny.bert("Model"), "test")
    assert len(groups) == tiny.LAYERS + 1
    assert {"pooler.dense.weight", "encoder.layer.1.output.dense.weight"} <= set(groups[0])


def test_each_group_moves_from_its_own_step_on(tmp_path):
    model = tiny.bert()
    groups = from_the_top(model, "test")
    _, first = run(model, tmp_path, GradualUnfreezing(every=5), max_steps=20)
    for index, group in enumerate(groups):
        moved = {first[name] for name in group if not name.endswith("key.bias")}
        # Word embeddings that no row of the batch reads wait for one that does.
        assert min(moved) == 5 * index
        assert moved == {5 * index}


def test_by_default_all_groups_train_by_half_time(tmp_path):
    model = tiny.bert()
    groups = from_the_top(model, "test")
    _, first = run(model, tmp_path, GradualUnfreezing(), max_steps=18)
    assert [min(first[n] for n in group if n in first) for group in groups] == [0, 3, 6, 9]


def test_one_group_per_epoch(tmp_path):
    model = tiny.bert()
    groups = from_the_top(model, "test")
    method = GradualUnfreezing(every="epoch")
    _, first = run(model, tmp_path, method, max_steps=-1, num_train_epochs=4)  # 8 steps each
    assert [min(first[n] for n in group if n in first) for group in groups] == [0, 8, 16, 24]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (GradualUnfreezing(every=7), {}, "in step 21, but the run has 20: use at most 6"),
        (GradualUnfreezing(every="epoch"), {}, "every=epoch needs a Trainer with num_train_epochs"),
        (
            GradualUnfreezing(every="epoch"),
            {"max_steps": -1, "num_train_epochs": 3},
            "in step 24, but the run has 24",
        ),
    ],
)
def test_a_run_too_short_to_unfreeze_everything_is_refused(tmp_path, method, options, message):
    model = tiny.bert()
    before = weights(model)
    with pytest.raises(MethodError, match=message):
        run(model, tmp_path, method, **options)
    assert same(weights(model), before)


def test_the_longest_distance_it_suggests_is_accepted(tmp_path):
    _, first = run(tiny.bert(), tmp_path, GradualUnfreezing(every=6))
    assert min(step for name, step in first.items() if "embeddings" in name) == 18


def test_beside_full_it_would_have_no_effect_and_is_refused():
    with pytest.raises(MethodError, match="gradual-unfreezing: full trains the same parameters"):
        ftplug.apply(tiny.bert(), "full", "gradual-unfreezing")


def test_resumed_equals_uninterrupted(tmp_path):
    straight, resumed = straight_and_resumed(
        lambda: tiny.bert(dropout=0.1), tmp_path, GradualUnfreezing(every=4)
    )
    assert same(weights(straight.model), weights(resumed.model))
    assert all(p.requires_grad for p in resumed.model.parameters())  # everything may train again
