"""Outcomes by example: whose mean is the metric, or the metric on the same resamples."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cells import CLASSIFIES, KEY, place, ran
from sklearn.metrics import f1_score
from transformers import EvalPrediction

from ftplug.comparing.measuring import answers
from ftplug.comparing.measuring.answers import NoOutcomes, outcomes_of
from ftplug.comparing.measuring.evaluations import Evaluation
from ftplug.comparing.measuring.examples import contents, in_order, keys_of
from ftplug.comparing.measuring.losses import example_losses
from ftplug.comparing.outcomes import read_outcomes


def outcomes(folder, result):
    return read_outcomes(folder / "DIR" / result.outcomes)


def evaluation(predictions, labels, compute, metric="accuracy"):
    """Return an evaluation of rows that are told apart by a number."""
    prediction = EvalPrediction(predictions=predictions, label_ids=labels)
    found = Evaluation("eval", step=1, epoch=1.0, elsewhere=False, after=True)
    found.examples = [str(row).encode() for row in range(len(labels))]
    found.prediction, found.compute = prediction, compute
    found.metrics = {metric: float(compute(prediction)[metric])}
    return found


@pytest.fixture
def logits():
    draw = np.random.default_rng(0)
    labels = draw.integers(2, size=60)
    return draw.normal(size=(60, 2)) + 0.5 * np.eye(2)[labels], labels


def accuracy(p):
    return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}


def f1(p):
    return {"f1": f1_score(p.label_ids, p.predictions.argmax(-1), zero_division=0.0)}


# The keys.


def batch(rows, pad):
    """Return rows of token ids padded to a length, with what else a collator makes of them."""
    ids = torch.zeros(len(rows), pad, dtype=torch.long)
    mask = ids.clone()
    for row, values in enumerate(rows):
        ids[row, : len(values)] = torch.tensor(values)
        mask[row, : len(values)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def test_padding_is_no_part_of_an_example():
    rows = [[5, 6, 7], [8, 9], [5]]
    whole = contents(batch(rows, 9), 3, ["labels"])
    assert whole == [contents(batch([row], len(row)), 1, ["labels"])[0] for row in rows]
    assert len(set(whole)) == 3


def test_padding_on_the_left_neither():
    right = batch([[5, 6, 7]], 5)
    left = {name: value.roll(2, 1) for name, value in right.items()}
    assert contents(right, 1, ["labels"]) == contents(left, 1, ["labels"])


def test_labels_of_another_length_and_what_is_made_of_them():
    short = {**batch([[5, 6]], 2), "labels": torch.tensor([[3, 4, -100, 5]])}
    short["decoder_input_ids"] = torch.tensor([[0, 3, 4, 9]])
    long = {**batch([[5, 6]], 6), "labels": torch.tensor([[3, 4, -100, 5, -100, -100]])}
    long["decoder_input_ids"] = torch.tensor([[0, 3, 4, 9, 0, 0]])
    assert contents(short, 1, ["labels"]) == contents(long, 1, ["labels"])
    short["labels"][0, 0] = 7
    assert contents(short, 1, ["labels"]) != contents(long, 1, ["labels"])


@pytest.mark.parametrize("name", ["input_ids", "labels"])
def test_every_number_counts(name):
    rows = batch([[5, 6, 7], [8, 9]], 3)
    before = contents(rows, 2, ["labels"])
    rows[name][0, 1] += 1
    after = contents(rows, 2, ["labels"])
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_images_numbers_and_texts_count_too():
    one = {"pixel_values": torch.rand(2, 3, 4, 4), "labels": torch.tensor([0.5, 1.5])}
    assert len(set(contents({**one, "texts": ["a", "b"]}, 2, ["labels"]))) == 2
    same = {"pixel_values": torch.zeros(2, 3), "labels": torch.zeros(2)}
    assert len(set(contents(same, 2, ["labels"]))) == 1
    assert len(set(contents({**same, "texts": ["a", "b"]}, 2, ["labels"]))) == 2
    assert contents({"x": torch.zeros(1)}, 1, []) != contents({"x": torch.zeros(1).half()}, 1, [])


def test_examples_alike_are_counted_and_the_key_counts():
    keys = keys_of([b"a", b"b", b"a", b"a"], KEY)
    assert keys.shape == (4, 16)
    assert len(np.unique(keys, axis=0)) == 4
    assert np.array_equal(keys[:1], keys_of([b"a"], KEY))
    assert np.array_equal(
        keys[in_order(keys)], np.array(sorted(map(bytes, keys))).view(np.uint8).reshape(4, 16)
    )
    assert not (keys == keys_of([b"a", b"b", b"a", b"a"], "cd" * 32)).all(1).any()


# Classification.


def test_the_mean_of_the_outcomes_is_the_metric(tmp_path):
    result = ran(tmp_path, CLASSIFIES)
    found = outcomes(tmp_path, result)
    assert found.metric == "accuracy"
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)
    assert set(found.outcomes) <= {0.0, 1.0}
    assert found.resamples is None
    assert found.keys.shape == (10, 16)


def test_examples_are_the_same_in_all_cells_and_hold_no_text(tmp_path):
    alike = "[{**r, 'labels': 1, 'input_ids': r['input_ids'] * 0 + 61} for r in rows(model, 26)]"
    told = CLASSIFIES.replace("rows(model, 26)", alike)
    first, second, other = (
        ran(tmp_path / name, told, candidate, seed=seed, key=key)
        for name, candidate, seed, key in [
            ("a", "lora r=4", 1, KEY), ("b", "freeze layers=1", 2, KEY), ("c", "lora", 1, "c" * 64)
        ]
    )  # fmt: skip
    keys = [
        outcomes(tmp_path / n, r).keys for n, r in zip("abc", (first, second, other), strict=True)
    ]
    assert np.array_equal(keys[0], keys[1])
    assert len(np.unique(keys[0], axis=0)) == 10  # though they are alike but for padding
    assert not (keys[0] == keys[2]).all(1).any()
    raw = (tmp_path / "a" / "DIR" / first.outcomes).read_bytes()
    ids = torch.full((7,), 61)
    for dtype in (torch.int64, torch.int32):
        assert ids.to(dtype)[:4].numpy().tobytes() not in raw
    assert b"61" not in raw


def test_a_metric_of_single_examples(logits):
    def brier(p):
        odds = 1 / (1 + np.exp(p.predictions[:, 0] - p.predictions[:, 1]))
        return {"eval_brier": ((odds - p.label_ids) ** 2).mean()}

    predictions, labels = logits
    found = evaluation(predictions, labels, lambda p: {"brier": brier(p)["eval_brier"]}, "brier")
    found.compute = brier  # which may name it with the prefix
    outcome = outcomes_of(found, "brier", KEY)
    assert outcome.outcomes.mean() == pytest.approx(found.metrics["brier"], abs=1e-6)
    order = in_order(keys_of(found.examples, KEY))
    one = brier(EvalPrediction(predictions[order[:1]], labels[order[:1]]))["eval_brier"]
    assert outcome.outcomes[0] == pytest.approx(one)


def test_f1_is_resampled_as_scikit_learn_would(logits):
    found = evaluation(*logits, f1, "f1")
    outcome = outcomes_of(found, "f1", KEY)
    assert outcome.outcomes is None
    assert outcome.resamples.shape == (1000,)
    draw, order = np.random.default_rng(int(KEY, 16)), in_order(keys_of(found.examples, KEY))
    answers_, labels = logits[0].argmax(-1)[order], logits[1][order]
    for value in outcome.resamples[:50]:
        rows = draw.integers(60, size=60)
        assert value == pytest.approx(f1_score(labels[rows], answers_[rows]), abs=1e-12)


def test_the_draws_do_not_depend_on_the_order_of_the_examples(logits):
    predictions, labels = logits
    first = outcomes_of(evaluation(predictions, labels, f1, "f1"), "f1", KEY)
    turned = evaluation(predictions[::-1], labels[::-1], f1, "f1")
    turned.examples.reverse()
    second = outcomes_of(turned, "f1", KEY)
    assert np.array_equal(first.resamples, second.resamples)
    assert np.array_equal(first.keys, second.keys)


@pytest.mark.parametrize("side", [0, 1], ids=["0", "1"])
def test_f1_that_equals_a_mean_by_chance_is_resampled_too(logits, side):
    """All answers one class: F1 is 0 for every example and for all of them."""
    labels = logits[1] if side == 0 else np.ones_like(logits[1])
    always = np.tile(np.eye(2)[side], (60, 1)) + 0.01 * logits[0]
    outcome = outcomes_of(evaluation(always, labels, f1, "f1"), "f1", KEY)
    assert outcome.outcomes is None
    assert set(outcome.resamples) == {float(side)}


def refused(found, metric):
    with pytest.raises(NoOutcomes) as reason:
        outcomes_of(found, metric, KEY)
    return str(reason.value)


def test_why_there_are_none(logits, monkeypatch):
    found = evaluation(*logits, f1, "f1")
    found.metrics["f1"] += 1e-4
    assert "does not give the same value" in refused(found, "f1")
    found = evaluation(*logits, f1, "f1")
    found.examples.pop()
    assert refused(found, "f1") == "59 examples were evaluated, but compute_metrics got 60"
    found.prediction = None
    assert "batch_eval_metrics" in refused(found, "f1")
    found = evaluation(*logits, f1, "f1")
    found.metrics["other"] = 1.0
    assert "the Trainer adds it" in refused(found, "other")
    found.no_examples = "its batches are no mappings of tensors"
    assert "cannot be told apart" in refused(found, "f1")
    monkeypatch.setattr(answers, "SECONDS", 0.0)
    assert "longer than 0 s" in refused(evaluation(*logits, f1, "f1"), "f1")


@pytest.mark.parametrize("seconds", [0.1, 3.0, 130.0])
@pytest.mark.parametrize("share", [np.mean, np.max])
def test_calling_the_metric_again_has_an_end(logits, monkeypatch, seconds, share):
    now = [0.0]
    monkeypatch.setattr(answers, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def slow(prediction):
        now[0] += seconds
        return {"score": float(share(prediction.predictions)) if len(prediction.label_ids) else 0}

    found = evaluation(*logits, slow, "score")
    now[0] = 0.0
    if seconds > 1:
        assert "longer than 120 s" in refused(found, "score")
    else:
        kept = outcomes_of(found, "score", KEY)
        assert (kept.outcomes is None) == (share is np.max)
    assert now[0] <= 250


def test_a_metric_that_some_resamples_lack(logits):
    def precision(p):
        hits = p.label_ids[p.predictions.argmax(-1) == 1]
        return {"precision": hits.mean() if len(hits) else float("nan")}

    predictions, labels = logits
    predictions = np.where(np.arange(60)[:, None] == 3, [[0.0, 1.0]], [[1.0, 0.0]])
    assert "undefined on" in refused(
        evaluation(predictions, labels, precision, "precision"), "precision"
    )


def test_tuples_of_predictions_are_taken_apart(logits):
    predictions, labels = logits
    whole = outcomes_of(evaluation(predictions, labels, accuracy), "accuracy", KEY)
    both = evaluation(
        (predictions, predictions[:, :, None]), labels, lambda p: accuracy(_first(p)), "accuracy"
    )
    assert np.array_equal(outcomes_of(both, "accuracy", KEY).outcomes, whole.outcomes)


def _first(p):
    return EvalPrediction(p.predictions[0], p.label_ids)


def test_a_script_that_computes_by_batch_has_none(tmp_path):
    code = CLASSIFIES.replace("arguments()", "arguments(batch_eval_metrics=True)")
    code = code.replace(
        "compute_metrics=accuracy", "compute_metrics=lambda p, compute_result: {'accuracy': 0.5}"
    )
    result = ran(tmp_path, code)
    assert result.status == "finished"
    assert result.outcomes is None
    assert result.no_outcomes.startswith("not decided: no per-example outcome: the metric is not")


# Losses.

GENERATES = """
model = tiny.{family}
data = [{{k: v[: len(v) - i % 3] for k, v in r.items()}} for i, r in enumerate(rows(model, 27))]

def collate(found):
    pads = dict(input_ids=0, attention_mask=0, labels=-100)
    return {{
        k: torch.nn.utils.rnn.pad_sequence([f[k] for f in found], True, pads[k]) for k in found[0]
    }}

trainer = Trainer(
    model, arguments(num_train_epochs=1), train_dataset=data[:16], eval_dataset=data[16:],
    data_collator=collate,
)
trainer.train()
"""  # fmt: skip


@pytest.mark.parametrize(
    "family", ["llama()", "t5()", "bert('MaskedLM')", "bert('TokenClassification')"]
)
def test_the_mean_of_the_losses_is_the_trainers(tmp_path, family):
    result = ran(tmp_path, GENERATES.format(family=family), "full")
    assert (result.status, result.metric, result.no_outcomes) == ("finished", "loss", None)
    found = outcomes(tmp_path, result).outcomes
    assert found.mean() == pytest.approx(result.value, abs=1e-6)
    assert len(found) == 11
    assert found.std() > 1e-3


def test_of_classes_and_of_numbers_too(tmp_path):
    classes = ran(tmp_path / "a", CLASSIFIES.replace(", compute_metrics=accuracy", ""))
    numbers = CLASSIFIES.replace("tiny.bert()", "tiny.bert(num_labels=1)")
    numbers = numbers.replace(
        "rows(model, 26)", "[r | {'labels': i / 9} for i, r in enumerate(rows(model, 26))]"
    )
    squares = ran(tmp_path / "b", numbers, metric="loss")
    for name, result in (("a", classes), ("b", squares)):
        assert (result.status, result.metric) == ("finished", "loss")
        assert outcomes(tmp_path / name, result).outcomes.mean() == pytest.approx(
            result.value, abs=1e-6
        )


def test_a_loss_is_divided_as_it_was_summed():
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 7, generator=draw), torch.randint(7, (3, 5), generator=draw)
    labels[0, 2:] = -100
    flat = logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1)
    loss = float(torch.nn.functional.cross_entropy(*flat))
    shares = example_losses(loss, {"logits": logits}, labels, 3)
    alone = torch.nn.functional.cross_entropy(logits[0, :1], labels[0, 1:2])
    assert float(shares[0]) == pytest.approx(3 * float(alone) / 9)  # one of nine tokens
    assert float(shares.mean()) == pytest.approx(loss, abs=1e-6)
    assert example_losses(loss + 1e-3, {"logits": logits}, labels, 3) is None
    assert example_losses(loss + 1e-3, None, None, 1).tolist() == [loss + 1e-3]


def test_a_loss_of_the_scripts_own_is_not_guessed(tmp_path):
    own = "trainer.compute_loss_func = lambda out, labels, **k: out.logits.square().mean()"
    own += "\ntrainer.train()"
    code = CLASSIFIES.replace(", compute_metrics=accuracy", "").replace("trainer.train()", own)
    result = ran(tmp_path, code)
    assert (result.status, result.outcomes) == ("finished", None)
    assert result.no_outcomes.endswith("a batch's loss could not be divided among its examples")


def test_what_was_evaluated_last_is_what_is_written(tmp_path):
    code = CLASSIFIES + "trainer.predict(rows(model, 40)[26:])"
    result = ran(tmp_path, code)
    found = read_outcomes(place(tmp_path, result.cell) / "outcomes.safetensors")
    assert len(found.keys) == 14
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)


def test_a_cache_of_the_trunk_changes_no_example_and_no_outcome(tmp_path):
    plain = ran(tmp_path / "a", CLASSIFIES, "freeze layers=1")
    cached = ran(tmp_path / "b", CLASSIFIES, "freeze+trunk-cache freeze.layers=1")
    assert (cached.status, cached.reason) == ("finished", None)
    first, second = outcomes(tmp_path / "a", plain), outcomes(tmp_path / "b", cached)
    assert np.array_equal(first.keys, second.keys)
    assert np.array_equal(first.outcomes, second.outcomes)
    assert cached.metrics["loss"] == pytest.approx(plain.metrics["loss"], abs=1e-5)
