"""Which metric of a cell counts, of which data, and of which weights."""

import pytest
from cells import CLASSIFIES, ran

from ftplug.comparing.measuring import metrics

TWO = CLASSIFIES.replace("compute_metrics=accuracy", "compute_metrics=two") + "\n"
BEGIN = """
def two(p):
    found = accuracy(p)["accuracy"]
    return {"wrong_error": 1 - found, "accuracy": found}
"""
ONE_EPOCH = "num_train_epochs=1"


def two(arguments="", **asked):
    return BEGIN + TWO.replace("arguments()", f"arguments({ONE_EPOCH}, {arguments})"), asked


@pytest.mark.parametrize(
    ("code", "metric", "greater"),
    [
        (two(), "wrong_error", False),  # the first
        (two(metric="eval_accuracy"), "accuracy", True),
        (two(metric="accuracy"), "accuracy", True),
        (two(metric="loss"), "loss", False),
        (two("metric_for_best_model='accuracy'"), "accuracy", True),
        (two("metric_for_best_model='eval_accuracy', greater_is_better=False"), "accuracy", False),
        (two("metric_for_best_model='accuracy', greater_is_better=False", metric="wrong_error"),
         "wrong_error", False),
    ],
)  # fmt: skip
def test_which_metric_counts(tmp_path, code, metric, greater):
    code, asked = code
    result = ran(tmp_path, code, **asked)
    assert (result.status, result.reason) == ("finished", None)
    assert (result.metric, result.greater_is_better) == (metric, greater)
    assert result.value == result.chosen_by == result.epochs[-1]["metrics"][metric]


def test_an_unknown_metric_is_told_from_those_there_are(tmp_path):
    result = ran(tmp_path, CLASSIFIES, metric="f1")
    assert result.status == "failed"
    assert result.reason == ("the script's evaluation has no metric 'f1': there is accuracy, loss")
    assert result.epochs == [{"epoch": 1.0, "metrics": result.epochs[0]["metrics"]}]


LESS = """loss eval_a_loss mean_error perplexity mse WER error_rate char_error_rate err ppl nll mape
smape ece false_positive_rate brier brier_score bits_per_byte crps edit_distance hamming_distance
loss_mean negative_log_likelihood validloss errorRate token-level.error kl_divergence rmse_mean
neg_log_likelihood cross_entropy mean_poisson_deviance"""
MORE = """accuracy f1 rouge1 filter answer bleu error_detection_f1 false_positive_accuracy pearson
neg_log_loss neg_mean_squared_error
log_likelihood exact_match brevity meteor mcc r2 win_rate positive_rate chrf terms"""


@pytest.mark.parametrize("name", LESS.split())
def test_less_of_it_is_better(name):
    assert not metrics.greater_is_better(name, NoBest)


@pytest.mark.parametrize("name", MORE.split())
def test_more_of_it_is_better(name):
    assert metrics.greater_is_better(name, NoBest)


@pytest.mark.parametrize("more", [True, False])
def test_the_comparison_may_say_which_is_better(tmp_path, more):
    code, _ = two("metric_for_best_model='accuracy', greater_is_better=True")
    result = ran(tmp_path, code, metric="accuracy", greater_is_better=more)
    assert (result.status, result.greater_is_better) == ("finished", more)


def test_a_metric_that_is_no_number_names_those_that_are(tmp_path):
    code = BEGIN.replace("1 - found", "float('nan')") + two()[0].removeprefix(BEGIN)
    result = ran(tmp_path, code)
    assert result.status == "diverged"
    assert result.reason.endswith(": --metric may name another (loss, accuracy)")


class NoBest:
    metric_for_best_model = None
    greater_is_better = None


TEST = """
import pathlib
other = rows(tiny.bert(), 40)[26:]
"""
SAYS = "\npathlib.Path('said').write_text(str(found['test_accuracy']))"


@pytest.mark.parametrize(
    "evaluates",
    [
        "found = trainer.evaluate(other, metric_key_prefix='test')",
        "found = {'test_accuracy': trainer.evaluate(other)['eval_accuracy']}",
        "found = trainer.predict(other).metrics",
        "found = trainer.predict(other, metric_key_prefix='test').metrics\ntrainer.evaluate()",
    ],
)
def test_a_test_set_is_what_is_reported(tmp_path, evaluates):
    code = CLASSIFIES + TEST + evaluates + SAYS
    result = ran(tmp_path, code)
    assert (result.status, result.set) == ("finished", "test")
    assert result.value == float((tmp_path / "said").read_text())
    assert result.chosen_by == result.epochs[-1]["metrics"]["accuracy"]
    assert set(result.metrics) == {"accuracy", "loss"}


@pytest.mark.parametrize(
    "evaluates",
    [
        "trainer.evaluate()",
        "trainer.evaluate(list(data[16:]))",  # another object, but the same examples
        "trainer.predict(data[16:])",
        "trainer.predict([{k: v for k, v in row.items() if k != 'labels'} for row in data])",
    ],
)
def test_the_evaluation_set_is_no_test_set(tmp_path, evaluates):
    result = ran(tmp_path, CLASSIFIES + evaluates)
    assert (result.status, result.set) == ("finished", "evaluation")
    assert result.value == result.epochs[-1]["metrics"]["accuracy"]


@pytest.mark.parametrize(
    "evaluates",
    [
        "trainer.evaluate(trainer.train_dataset)",
        "trainer.evaluate(trainer.train_dataset, metric_key_prefix='sanity')",
        "trainer.predict(trainer.train_dataset, metric_key_prefix='sanity')",
        "trainer.evaluate(data[:12], metric_key_prefix='train')",
        "trainer.evaluate(list(data[:16]), metric_key_prefix='sanity')",
        "trainer.evaluate(data[16:20], metric_key_prefix='sanity')",  # a part of the evaluation set
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_was_trained_or_chosen_on_is_no_test_set(tmp_path, evaluates, first):
    code = [evaluates, "trainer.evaluate()"]
    result = ran(tmp_path, CLASSIFIES + "\n".join(code if first else code[::-1]))
    assert (result.status, result.set) == ("finished", "evaluation")
    assert result.value == result.epochs[-1]["metrics"]["accuracy"]


WITHOUT = CLASSIFIES.replace("eval_dataset=data[16:], ", "")
DEV, TEST_SET = "trainer.evaluate(data[16:])", "trainer.predict(other)"
TRAIN = "trainer.evaluate(trainer.train_dataset, metric_key_prefix='train')"


@pytest.mark.parametrize(
    ("calls", "measured", "chosen"),
    [
        ([DEV, TEST_SET], 14, 10),
        ([DEV, "trainer.evaluate(other)"], 14, 10),
        ([TRAIN, DEV, TEST_SET, TRAIN], 14, 10),
        ([TEST_SET, DEV], 10, 10),  # nothing says that the first one was not chosen by
        ([TEST_SET], 14, 14),
        ([DEV], 10, 10),
        ([DEV, TRAIN], 10, 10),
        ([TRAIN, DEV], 10, 10),
        ([TRAIN], 16, 16),
    ],
)
def test_without_an_evaluation_set_the_first_evaluated_is_it(tmp_path, calls, measured, chosen):
    """The metric counts examples, so that it says of which set it is."""
    assert WITHOUT != CLASSIFIES
    counts = "\ntrainer.compute_metrics = lambda p: {'rows': float(len(p.label_ids))}\n"
    result = ran(tmp_path, WITHOUT + counts + TEST + "\n".join(calls))
    assert (result.status, result.reason) == ("finished", None)
    assert (result.value, result.chosen_by) == (measured, chosen)
    assert result.set == ("evaluation" if measured == chosen else "test")


AUGMENTED = """
import random

from tiny import VOCAB

class Augmented(list):
    def __getitem__(self, index):
        row = super().__getitem__(index)
        return row | {"input_ids": [random.randrange(2, VOCAB) for _ in row["input_ids"]]}

trainer.train_dataset = Augmented(data[:16])
trainer.train()
"""


def test_nor_is_a_training_set_that_is_another_each_time(tmp_path):
    """No example of it comes twice: the data set itself tells."""
    code = CLASSIFIES.replace("\ntrainer.train()\n", AUGMENTED)
    assert AUGMENTED in code
    result = ran(tmp_path, code + "trainer.evaluate(trainer.train_dataset)")
    assert (result.status, result.set) == ("finished", "evaluation")


@pytest.mark.parametrize(
    "evaluates",
    [
        "found = trainer.evaluate(other[:10], metric_key_prefix='test')\n"
        "trainer.evaluate(other[4:], metric_key_prefix='hard')",
        "found = {'test_accuracy': trainer.predict(other[:10], metric_key_prefix='final')"
        ".metrics['final_accuracy']}\ntrainer.evaluate(other[4:], metric_key_prefix='hard')",
    ],
)
def test_of_several_sets_the_one_called_test_or_predicted_counts(tmp_path, evaluates):
    result = ran(tmp_path, CLASSIFIES + TEST + evaluates + SAYS)
    assert (result.status, result.set) == ("finished", "test")
    assert result.value == float((tmp_path / "said").read_text())
    assert [note for note in result.notes if "counts, not 'hard'" in note]


def test_a_test_before_training_does_not_count(tmp_path):
    code = CLASSIFIES.replace("trainer.train()", "trainer.evaluate(data[:9])\ntrainer.train()")
    assert ran(tmp_path, code).set == "evaluation"


def test_without_an_evaluation_set_what_is_evaluated_is_it(tmp_path):
    code = CLASSIFIES.replace("eval_dataset=data[16:], ", "")
    result = ran(tmp_path, code + "trainer.evaluate(data[16:], metric_key_prefix='test')")
    assert (result.status, result.set, result.epochs) == ("finished", "evaluation", [])
    assert result.chosen_by == result.value
    assert result.outcomes


BEST = """
values = iter([0.51, 1.0, 0.26])
trainer.compute_metrics = lambda p: {"accuracy": next(values, accuracy(p)["accuracy"])}
trainer.train()
"""


def test_the_best_epoch_is_what_rates_are_chosen_by(tmp_path):
    options = (
        "num_train_epochs=3, save_strategy='epoch', eval_strategy='epoch', "
        "load_best_model_at_end=True, metric_for_best_model='accuracy'"
    )
    code = CLASSIFIES.replace("arguments()", f"arguments({options})")
    code = code.replace("trainer.train()", BEST)
    result = ran(tmp_path, code)
    assert result.status == "finished"
    assert [epoch["metrics"]["accuracy"] for epoch in result.epochs] == [0.51, 1.0, 0.26]
    # Judged are the weights that are kept, which were evaluated anew.
    assert result.metrics["loss"] == pytest.approx(result.epochs[1]["metrics"]["loss"], abs=1e-6)
    assert result.value not in (0.51, 1.0, 0.26)
    assert result.chosen_by == result.value


def test_several_evaluation_sets_keep_their_names(tmp_path):
    code = CLASSIFIES.replace("data[16:]", "{'a': data[16:20], 'b': data[20:]}")
    result = ran(tmp_path, code, metric="eval_b_accuracy")
    assert (result.status, result.metric) == ("finished", "b_accuracy")
    assert set(result.epochs[0]["metrics"]) == {"a_accuracy", "a_loss", "b_accuracy", "b_loss"}
    assert result.outcomes
    assert ran(tmp_path / "x", code).metric == "a_accuracy"
    unknown = ran(tmp_path / "y", code, metric="f1")
    assert unknown.status == "failed"
    assert "no metric 'f1'" in unknown.reason


def test_steps_between_evaluations_stay_the_scripts(tmp_path):
    options = "eval_strategy='steps', eval_steps=3"
    result = ran(tmp_path, CLASSIFIES.replace("arguments()", f"arguments({options})"))
    assert [epoch["epoch"] for epoch in result.epochs] == [0.75, 1.5, 2.0]
    assert result.notes == ["args.output_dir is a folder of the cell's own"]
