"""Metrics are measured again on the data that the manifest names, and claims are held to them."""

import dataclasses
import hashlib
import json
import shutil

import pytest
import torch
from ftplug_registry.verifying import evaluating
from ftplug_registry.verifying.rerun import require_met, rerun

import ftplug
from ftplug.artifacts.manifest import read_manifest
from ftplug.demo import data as demo
from ftplug.errors import ArtifactError
from ftplug.training.facts.evaluation import ACCURACY, F1

ROWS = demo.split(demo.read_sentences()).test
ON_DEMO = {"source": demo.SOURCE, "split": "test", "sha256": demo.digest(ROWS)}
COLUMNS = {"text": ["text"], "label": "label", "max_length": 32}


@pytest.fixture(scope="module")
def right(saved, base):
    """Accuracy and F1 of the saved artifact on the demo's held-out rows, computed by hand."""
    from transformers import AutoTokenizer, BertForSequenceClassification

    model = ftplug.load(BertForSequenceClassification.from_pretrained(base), saved / "lora").eval()
    tokenizer = AutoTokenizer.from_pretrained(saved / "lora")
    hits = both = either = 0
    with torch.no_grad():
        for text, label in ROWS:
            batch = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")
            said = int(model(**batch).logits.argmax())
            hits += said == label
            both += said == label == 1
            either += (said == 1) + (label == 1)
    return hits / len(ROWS), 2 * both / either


@pytest.fixture
def claiming(artifact, right):
    """Return ``claiming(**changes)``: the artifact with an evaluation in its manifest."""

    def written(accuracy=right[0], f1=right[1], **changes):
        manifest = read_manifest(artifact)
        evaluation = {
            "rows": len(ROWS),
            "metrics": {"test_accuracy": ACCURACY, "test_f1": F1},
            "data": ON_DEMO,
            "preprocessing": COLUMNS,
        } | changes
        training = {
            "metrics": {"test_accuracy": accuracy, "test_f1": f1},
            "evaluation": {k: v for k, v in evaluation.items() if v is not None},
        }
        dataclasses.replace(manifest, training=training).write(artifact / "ftplug.json")
        return artifact

    return written


def test_what_is_measured_again_is_what_was_computed_by_hand(claiming, base, right):
    found = rerun(claiming(), base)
    assert found.rows == 597
    measured = (found.metrics["test_accuracy"].measured, found.metrics["test_f1"].measured)
    assert measured == pytest.approx(right)
    p = right[0]
    assert found.metrics["test_accuracy"].error == pytest.approx((p * (1 - p) / 597) ** 0.5)
    assert 0 < found.metrics["test_f1"].error < 0.05
    require_met(found, "it")


@pytest.mark.parametrize("more", [0.05, -0.05])
def test_a_claim_that_is_five_points_off_is_refused(claiming, base, right, more):
    found = rerun(claiming(accuracy=right[0] + more), base)
    with pytest.raises(ArtifactError, match=r"test_accuracy is .* not the .* that it claims"):
        require_met(found, "it")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": None}, "where its data come from"),
        ({"data": {"source": "datasets", "dataset": "../a"}}, "is no data set on the Hub"),
        ({"data": {"source": "datasets", "dataset": "csv"}}, "lacks the revision"),
        ({"data": {"source": "datasets", "dataset": "org/name"}}, "lacks the revision"),
        (
            {"data": {"source": "datasets", "dataset": "org/name", "revision": "a" * 40}},
            "lacks the split",
        ),
        ({"data": {"source": "file", "format": "csv"}}, "lacks the sha256"),
        (
            {"data": {"source": "file", "format": "csv", "sha256": "a", "name": "mine.csv"}},
            r"on a file \(mine.csv\): name it with --data",
        ),
        ({"data": ON_DEMO | {"sha256": "0"}}, "holds out other sentences"),
        ({"preprocessing": None}, "the preprocessing"),
        ({"preprocessing": {"text": "text", "label": "label"}}, "the preprocessing"),
        ({"preprocessing": COLUMNS | {"max_length": "long"}}, "after how many tokens"),
        ({"metrics": {"test_accuracy": "magic"}}, "a metric that can be computed here"),
        ({"metrics": {"other": ACCURACY}}, "a metric that can be computed here"),
        ({"rows": 3}, "has 597 rows, it was evaluated on 3"),
        ({"rows": None}, "it was evaluated on None"),
    ],
)
def test_the_missing_fact_is_named(claiming, base, changes, said):
    with pytest.raises(ArtifactError, match=said):
        rerun(claiming(**changes), base)


def test_without_any_evaluation_that_is_said(artifact, base):
    with pytest.raises(ArtifactError, match="lacks how it was evaluated"):
        rerun(artifact, base)


def test_without_a_tokenizer_that_is_said(claiming, base):
    artifact = claiming()
    (artifact / "tokenizer_config.json").unlink()
    with pytest.raises(ArtifactError, match="it has no tokenizer"):
        rerun(artifact, base)


def test_a_tokenizer_that_does_not_pad_is_one_line(claiming, base, monkeypatch):
    read = evaluating._tokenizer

    def without_padding(directory):
        tokenizer = read(directory)
        tokenizer.pad_token = None
        return tokenizer

    monkeypatch.setattr(evaluating, "_tokenizer", without_padding)
    with pytest.raises(ArtifactError, match=r"cannot be measured again: Asking to pad"):
        rerun(claiming(), base)


def test_ids_beyond_the_vocabulary_are_one_line(claiming, base, monkeypatch):
    artifact, load = claiming(), ftplug.load

    def smaller(*given, **options):
        model = load(*given, **options)
        embeddings = model.get_input_embeddings()
        embeddings.weight = torch.nn.Parameter(embeddings.weight[:3])
        return model

    monkeypatch.setattr(ftplug, "load", smaller)
    with pytest.raises(ArtifactError, match=r"gives the id \d+, and the model reads 3: they"):
        rerun(artifact, base)


@pytest.fixture
def file(tmp_path):
    """Rows as JSON lines, with labels as the model calls them."""
    path = tmp_path / "reviews.jsonl"
    names = {0: "bad", 1: "good"}
    rows = [{"said": text, "mood": names[label]} for text, label in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def on_file(claiming, file):
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return claiming(
        data={"source": "file", "name": file.name, "format": "json", "sha256": digest},
        preprocessing={"text": ["said"], "label": "mood", "max_length": 32},
    )


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_local_file_is_known_by_its_sha256(on_file, base, file, right):
    found = rerun(on_file, base, file=file)
    assert found.metrics["test_accuracy"].measured == pytest.approx(right[0])
    file.write_text(file.read_text().replace("good", "bad", 1))
    with pytest.raises(ArtifactError, match="is not the file it was evaluated on"):
        rerun(on_file, base, file=file)


def test_a_data_set_of_the_hub_is_asked_for_by_its_commit(claiming, base, right, monkeypatch):
    import datasets

    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        texts, labels = zip(*ROWS, strict=True)
        return datasets.Dataset.from_dict({"text": texts, "label": labels})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = {"source": "datasets", "dataset": "org/reviews", "config": "en"}
    artifact = claiming(data=data | {"revision": "a" * 40, "split": "test"})
    assert rerun(artifact, base).metrics["test_accuracy"].measured == pytest.approx(right[0])
    assert asked == [(("org/reviews", "en"), {"split": "test", "revision": "a" * 40})]


def test_a_folder_of_a_data_sets_name_is_not_read(claiming, base, tmp_path, monkeypatch):
    (tmp_path / "org" / "reviews").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = {"source": "datasets", "dataset": "org/reviews", "revision": "a" * 40, "split": "test"}
    with pytest.raises(ArtifactError, match="is no data set on the Hub"):
        rerun(claiming(data=data), base)


def test_the_command_says_what_was_measured(typed, claiming, base, right, tmp_path):
    artifact = claiming()
    code, out, err = typed("verify", artifact, "--base", base, "--rerun")
    assert (code, err) == (0, "")
    assert f"measured again on 597 rows of {demo.NAME} (held out)" in out
    code, out, _ = typed("verify", artifact, "--base", base, "--rerun", "--json")
    assert json.loads(out)["rerun"]["metrics"]["test_accuracy"]["claimed"] == right[0]
    raised = shutil.copytree(artifact, tmp_path / "raised")
    manifest = json.loads((raised / "ftplug.json").read_text())
    manifest["training"]["metrics"]["test_accuracy"] += 0.05
    (raised / "ftplug.json").write_text(json.dumps(manifest))
    code, out, err = typed("verify", raised, "--base", base, "--rerun")
    assert (code, "measured again" in out) == (1, False)
    assert "that it claims" in err
    assert len(err.splitlines()) == 1
