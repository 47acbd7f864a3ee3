"""The training curve: a small PNG of what there is, the same for the same history."""

import io
import logging
import math

import pytest
from ftplug_registry.card.curve import training_curve
from PIL import Image


def history(points, evaluations, *metrics):
    """Return a made-up run's history as the manifest has it."""
    train = [{"step": i + 1, "loss": math.exp(-i / points) + i % 3 / 20} for i in range(points)]
    names = ("loss", *metrics)
    evaluated = [
        {"step": 5 * i, **{f"eval_{name}": 0.9 - 0.01 * i for name in names}}
        for i in range(evaluations)
    ]
    return {"train": train, "eval": evaluated}


def size(png):
    return Image.open(io.BytesIO(png)).size


@pytest.mark.parametrize("points", [1, 2, 41, 200])
@pytest.mark.parametrize("evaluations", [0, 1, 200])
def test_a_small_picture_at_any_length(points, evaluations):
    png = training_curve(history(points, evaluations, "accuracy"))
    assert png.startswith(b"\x89PNG")
    assert len(png) < 60_000


def test_metrics_have_a_panel_of_their_own():
    width, height = size(training_curve(history(20, 4)))
    assert size(training_curve(history(20, 4, "accuracy", "f1"))) == (2 * width, height)
    assert size(training_curve(history(0, 4, "accuracy"))) == (2 * width, height)
    assert size(training_curve({"train": [], "eval": [{"step": 1, "eval_bleu": 31.5}]}))[0] == width


def test_the_majority_class_is_drawn():
    made = history(20, 4, "accuracy")
    assert training_curve(made) != training_curve(made, {"eval_accuracy": 0.5})
    assert training_curve(made) == training_curve(made, {"eval_f1": 0.5})


@pytest.mark.parametrize(
    "empty",
    [{}, {"train": [], "eval": []}, {"eval": [{"step": 3}]}, {"train": [{"loss": 1.0}]}],
)
def test_nothing_to_draw(empty):
    assert training_curve(empty) is None


def test_the_users_style_is_neither_used_nor_changed():
    import matplotlib

    made = history(50, 4, "accuracy")
    plain = training_curve(made)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "black"}):
        assert training_curve(made) == plain
        assert matplotlib.rcParams["lines.linewidth"] == 9
    assert logging.getLogger("matplotlib").level == logging.NOTSET


@pytest.mark.parametrize("name", ["_hidden", "$x_", "\ud83d", "精度", "a" * 99, "\x00"])
def test_a_metric_may_have_any_name(name):
    assert training_curve(history(3, 3, name))
