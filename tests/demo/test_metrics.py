import random

import pytest

metrics = pytest.importorskip("ftplug.demo.metrics", reason="needs scikit-learn and evaluate")


@pytest.mark.usefixtures("no_network")
def test_scores_equal_scikit_learn():
    import numpy
    from sklearn.metrics import accuracy_score, f1_score

    draw = random.Random(3)
    true = [draw.randint(0, 1) for _ in range(101)]
    said = [draw.randint(0, 1) for _ in range(101)]
    expected = {"accuracy": accuracy_score(true, said), "f1": f1_score(true, said)}
    assert metrics.scores(said, true) == expected
    assert metrics.scores(numpy.array(said), numpy.array(true)) == expected


@pytest.mark.usefixtures("no_network")
def test_they_are_evaluate_modules():
    import evaluate

    for metric in (metrics.Accuracy(), metrics.F1()):
        assert isinstance(metric, evaluate.EvaluationModule)
        metric.add_batch(predictions=[0, 1, 1], references=[0, 1, 1])
        assert list(metric.compute().values()) == [1.0]
