"""What a run knows of itself: its data, its history, and what its metrics compare with."""

import copy
import json

import numpy as np
import pytest
import tiny
import torch
from datasets import Dataset, DatasetInfo
from runs import rows, trainer
from transformers import EarlyStoppingCallback

import ftplug
from ftplug.artifacts.json_values import json_values
from ftplug.base.license import cached_license
from ftplug.training.dataset import data_facts, majority_share
from ftplug.training.history import curve

SHA = "0123456789abcdef" * 2 + "01234567"


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def facts(bound):
    found = ftplug.training.record.training_facts(bound, bound.ftplug.measured)
    return json.loads(json.dumps(found))


# Data


def columns(count=6):
    return {"text": list("abcdef"[:count]), "label": [0, 1, 1, 0, 1, 1][:count]}


def test_rows_alone_for_data_of_ones_own():
    assert data_facts([1, 2, 3], [1]) == {"train_rows": 3, "eval_rows": 1}
    assert data_facts(None, {"a": [1]}) == {}
    assert data_facts(Dataset.from_dict(columns()), None) == {"train_rows": 6}


def test_a_dataset_of_the_hub_by_the_addresses_of_its_files():
    info = DatasetInfo(
        dataset_name="my_data",
        config_name="en",
        version="1.2.0",
        download_checksums={f"hf://datasets/Org/MyData@{SHA}/en/x.parquet": {"num_bytes": 1}},
    )
    train = Dataset.from_dict(columns(), info=info, split="train")
    test = Dataset.from_dict(columns(2), info=info, split="test")
    train = train.map(lambda row: {"size": 1}).filter(lambda row: row["label"] == 1)
    assert data_facts(train.shuffle(seed=0), test) == {
        "train_rows": 4,
        "eval_rows": 2,
        "train_split": "train",
        "eval_split": "test",
        "dataset": "Org/MyData",
        "config": "en",
        "version": "1.2.0",
        "revision": SHA,
    }


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (f"org___my_data/en/0.0.0/{SHA}", ("Org/MyData", SHA)),
        (f"other___my_data/en/0.0.0/{SHA}", ("other/my_data", SHA)),
        (f"old/en/0.0.0/{SHA}", ("old", SHA)),
        (f"csv/default-1/0.0.0/{'0' * 64}", ("my_data", None)),
    ],
)
def test_a_dataset_of_the_hub_by_the_place_it_is_cached_in(tmp_path, monkeypatch, place, expected):
    from datasets.arrow_writer import ArrowWriter

    (tmp_path / "hub" / "datasets--Org--MyData" / "snapshots" / SHA).mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / place).mkdir(parents=True)
    file = tmp_path / place / "my_data-train.arrow"
    made = Dataset.from_dict(columns())
    with ArrowWriter(path=str(file), features=made.features) as writer:
        for row in made:
            writer.write(row)
        writer.finalize()
    info = DatasetInfo(dataset_name="my_data", config_name="en")
    loaded = Dataset.from_file(str(file), info=info, split="train").map(lambda row: {"size": 1})
    found = data_facts(loaded.train_test_split(0.5)["train"], None)
    assert (found["dataset"], found.get("revision")) == expected
    assert str(tmp_path) not in json.dumps(found)


def test_other_data_to_evaluate_on_have_an_entry_of_their_own():
    train, test = (
        Dataset.from_dict(columns(), info=DatasetInfo(dataset_name=name, version=version))
        for name, version in (("one", "1.0.0"), ("two", "2.0.0"))
    )
    found = data_facts(train, test)
    assert (found["dataset"], found["version"]) == ("one", "1.0.0")
    assert (found["eval_dataset"], found["eval_version"]) == ("two", "2.0.0")


# The commonest label


@pytest.mark.parametrize(
    ("dataset", "share"),
    [
        ([{"labels": 0}, {"labels": 1}, {"labels": 1}, {"label": 1}], 0.75),
        ([{"labels": torch.tensor(1)}, {"labels": np.int64(2)}], 0.5),
        (Dataset.from_dict(columns()), 4 / 6),
        (Dataset.from_dict(columns()).select([0, 3, 1]).with_format("torch"), 2 / 3),
        ([{"labels": 0.5}, {"labels": 0.5}], None),
        ([{"labels": [0, 1]}], None),
        ([{"labels": True}], None),
        ([{"labels": 1}, {}], None),
        (Dataset.from_dict({"labels": [0.1, 0.2]}), None),
        (Dataset.from_dict({"text": ["a"]}), None),
        ([], None),
        (None, None),
        (torch.utils.data.TensorDataset(torch.zeros(3)), None),
    ],
)
def test_the_share_of_the_commonest_label(dataset, share):
    assert majority_share(dataset) == share


# A run


def test_a_run_says_what_its_metrics_compare_with(tmp_path):
    model = tiny.bert()
    bound = trainer(model, tmp_path, max_steps=4, save_strategy="no", eval_strategy="steps",
                    eval_steps=2, eval_on_start=True)  # fmt: skip
    bound.compute_metrics, bound.eval_dataset = accuracy, rows(model, 9)
    ftplug.attach(bound, "lora").train()
    found = facts(bound)
    before = next(log for log in bound.state.log_history if log["step"] == 0)
    assert found["baselines"] == {
        "before training": {
            "eval_loss": pytest.approx(before["eval_loss"], rel=1e-5),
            "eval_accuracy": pytest.approx(before["eval_accuracy"], rel=1e-5),
        },
        "majority class": {"eval_accuracy": 5 / 9},
    }
    assert [point["step"] for point in found["history"]["eval"]] == [0, 2, 4]
    assert [point["step"] for point in found["history"]["train"]] == [1, 2, 3, 4]
    assert found["history"]["train"][0].keys() == {"step", "epoch", "loss", "learning_rate"}
    assert found["history"]["eval"][0].keys() == {"step", "epoch", "eval_loss", "eval_accuracy"}


def test_an_evaluation_before_training_counts(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, max_steps=2, save_strategy="no"), "lora")
    before = bound.evaluate()
    assert "baselines" not in facts(bound)
    bound.train()
    bound.evaluate()
    expected = {"eval_loss": pytest.approx(before["eval_loss"], rel=1e-5)}
    assert facts(bound)["baselines"] == {"before training": expected}


def test_no_majority_without_an_accuracy(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, max_steps=2, save_strategy="no"), "lora")
    bound.train()
    bound.evaluate()
    assert "baselines" not in facts(bound)


def test_the_metrics_are_those_of_the_restored_weights(tmp_path):
    model = tiny.bert()
    bound = trainer(
        model, tmp_path, max_steps=8, eval_strategy="steps", eval_steps=2, save_steps=2,
        load_best_model_at_end=True, learning_rate=0.5,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=3)],
    )  # fmt: skip
    ftplug.attach(bound, "freeze", layers=1).train()
    found = facts(bound)
    assert found["metrics"]["eval_loss"] == pytest.approx(bound.state.best_metric, rel=1e-5)


def test_hyperparameters_are_those_that_trained(tmp_path):
    model = tiny.bert()
    bound = trainer(model, tmp_path, max_steps=2, save_strategy="no", gradient_accumulation_steps=2,
                    warmup_steps=1, weight_decay=0.1)  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)
    bound.optimizer = optimizer
    ftplug.attach(bound, "full").train()
    found = facts(bound)["hyperparameters"]
    assert found["total_train_batch_size"] == 8
    assert (found["optimizer"], found["momentum"]) == ("SGD", 0.5)
    assert (found["learning_rate"], found["warmup_steps"], found["max_steps"]) == (0.25, 1, 2)
    assert "betas" not in found


# The curve


def test_a_long_history_is_thinned_and_keeps_its_ends():
    log = [{"step": i, "loss": 1.0} for i in range(1, 5001)]
    log += [{"step": i, "eval_loss": 1.0, "eval_runtime": 3.0} for i in range(5)]
    found = curve(log)
    assert len(found["train"]) == 200
    assert (found["train"][0]["step"], found["train"][-1]["step"]) == (1, 5000)
    assert found["eval"] == [{"step": i, "eval_loss": 1.0} for i in range(5)]


def test_only_finite_numbers_are_kept():
    log = [
        {"step": 1, "loss": float("nan"), "learning_rate": 0.1},
        {"step": 2, "loss": 0.123456789, "grad_norm": 1.0},
        {"step": 3, "eval_loss": float("inf"), "eval_f1": "high"},
        {"step": 4, "train_runtime": 1.0},
    ]
    assert curve(log) == {"train": [{"step": 2, "loss": 0.123457}], "eval": []}


def test_json_values():
    given = {
        "a": np.float32(0.5),
        "b": torch.tensor(3),
        "c": [1, float("nan"), (True, "x")],
        "d": {"e": float("inf"), 5: None},
        "f": tiny.bert,
    }
    found = json_values(given)
    assert found.pop("f").startswith("<function")
    assert found == {"a": 0.5, "b": 3, "c": [1, [True, "x"]], "d": {}}
    json.dumps(found, allow_nan=False)


# The base's licence


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("---\nlicense: Apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: [mit]\n---\n", "mit"),
        ("---\nlicense: [mit, gpl]\n---\n", None),
        ("---\nlicense: {a: b}\n---\n", None),
        ("---\nlicense: 'unclosed\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("no metadata", None),
    ],
)
def test_the_licence_in_the_folder_of_the_base(tmp_path, card, expected):
    (tmp_path / "README.md").write_text(card)
    assert cached_license(None, None, str(tmp_path)) == expected


def test_the_licence_in_the_hubs_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--org--name" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert cached_license("org/name", SHA, "org/name") == "mit"
    assert cached_license("org/name", "f" * 40, "org/name") is None
    assert cached_license("org/absent", None, "org/absent") is None


def test_a_copy_of_a_model_knows_the_same_facts(tmp_path):
    bound = ftplug.attach(trainer(tiny.bert(), tmp_path, max_steps=1, save_strategy="no"), "lora")
    bound.train()
    copied = copy.deepcopy(bound.model)
    ftplug.save(copied, tmp_path / "a")
    training = json.loads((tmp_path / "a" / "ftplug.json").read_text())["training"]
    assert training["history"]["train"][0]["step"] == 1
